"""Properties are judged by what they find, not by how fast: on a busy machine a deadline fails for no reason."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("rules", deadline=None)
settings.load_profile("rules")
