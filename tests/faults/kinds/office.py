"""The laboratory's outside world as a type of connector, for processes that are started by the real command line."""

from __future__ import annotations

from lab_worker import Office

from connectors import Config
from connectors.http import Client, Limits


class OfficeConfig(Config):
    """Where it is, and how gently it is treated."""

    base_url: str
    limits: Limits = Limits(concurrent=64)


class OfficeOnline(Office):
    """The laboratory's office, found by its settings."""

    def __init__(self, config: OfficeConfig) -> None:
        self._client = Client(config.name, config.base_url, config.limits)


CONFIG = OfficeConfig
CONNECTOR = OfficeOnline
