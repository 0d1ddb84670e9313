"""A real browser for tests: the machine's own Chromium, else the one that Playwright keeps."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Error as BrowserError
from playwright.async_api import Page, async_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
"""The page asks for nothing outside this machine."""


@asynccontextmanager
async def opened_page() -> AsyncGenerator[Page]:
    """Open a page; the test is skipped where there is no browser."""
    own = next(filter(None, map(shutil.which, CHROMIUM)), None)
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(executable_path=own, args=OPTIONS)
        except BrowserError as error:
            pytest.skip(f"no browser to look with: install Chromium ({str(error).splitlines()[0]})")
        page = await browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(60_000)
        try:
            yield page
        finally:
            await browser.close()
