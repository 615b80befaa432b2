"""The pages in a real browser, Debian's Chromium: light and dark, wide and on a phone, by keyboard, live, accessible.

ROOMMETER_TEST_BROWSER=required makes a missing browser a failure. ROOMMETER_SCREENSHOTS names a directory to which
each page is written as a picture (`make screenshots`), to be looked at.
"""

import asyncio
import base64
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.clickhouse import Store
from pipeline.metering.session import Session
from pipeline.metering.units import MS_PER_MINUTE
from pipeline.rows import Batch
from pipeline.settings import Settings
from tests.console.stage import NOW_MS, fed_store, served

_FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"),
)
_PAGES: Final = {
    "overview": "/",
    "projects": "/projects",
    "project": "/project?name=acme",
    "session": "/session?project=acme&room=RM_open&session=PA_open",
    "alerts": "/alerts",
    "login": "/login",
}
_CHARTS: Final = frozenset({"overview", "project"})
#: Width, height, whether it is a phone.
_SIZES: Final = {"wide": (1360, 900, False), "phone": (390, 844, True)}
_PATIENCE_S: Final = 30
_MOST_BYTES: Final = 100_000
_MOST_PAINT_MS: Final = 1_000

Driver = webdriver.Chrome


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A store with a day of calls."""
    with fed_store(tmp_path_factory.mktemp("console")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(settings: Settings) -> Iterator[dict[str, str]]:
    """The addresses of the pages, served by a thread: the login by a console that asks for a token."""
    loop, stop, ports, started = asyncio.new_event_loop(), asyncio.Event(), [0, 0], threading.Event()
    guarded = settings.model_copy(update={"console_require_token": True})

    async def serve() -> None:
        async with served(settings) as ports[0], served(guarded) as ports[1]:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(_PATIENCE_S)
    yield {name: f"http://127.0.0.1:{ports[name == 'login']}{path}" for name, path in _PAGES.items()}
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture
def address(pages: dict[str, str]) -> str:
    """The console's first page."""
    return pages["overview"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Chromium with a profile of its own, in Berlin."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        assert os.environ.get("ROOMMETER_TEST_BROWSER") != "required", "no chromium and chromium-driver"
        pytest.skip("no Chromium here: chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    service = Service(chromedriver, env={**os.environ, "TZ": "Europe/Berlin"})
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def _open(browser: Driver, address: str, scheme: str = "light", size: str = "wide") -> None:
    """Open a page as a browser of that size, which asks for that scheme."""
    width, height, is_phone = _SIZES[size]
    feature = {"name": "prefers-color-scheme", "value": scheme}
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1 + is_phone, "mobile": is_phone}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)
    _wait(browser, lambda: browser.execute_script("return document.querySelector('.local') !== null"))


def _wait(browser: Driver, condition: Callable[[], Any]) -> None:
    replaced = [StaleElementReferenceException]  # by a page that renews itself
    WebDriverWait(browser, _PATIENCE_S, 0.1, ignored_exceptions=replaced).until(lambda _: condition())


@contextmanager
def _hastened(browser: Driver) -> Iterator[None]:
    """Let timers of pages that are opened meanwhile run twenty times as fast."""
    source = "const real = setTimeout; window.setTimeout = (call, ms) => real(call, ms / 20);"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    yield
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def _luminance(browser: Driver) -> float:
    """Return how light the page's ground is, of 1."""
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour[4:-1].split(",")[:3]) / 765


def _picture(browser: Driver, name: str) -> None:
    directory = os.environ.get("ROOMMETER_SCREENSHOTS")
    if directory:
        width, height = browser.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", _PAGES)
def test_a_page_looks_right(browser: Driver, pages: dict[str, str], page: str, scheme: str, size: str) -> None:
    """No error and no violation of the policy, nothing wider than the window, as dark as asked, charts painted."""
    _open(browser, pages[page], scheme, size)
    _picture(browser, f"{page}-{scheme}-{size}")
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    wide, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == _SIZES[size][0]
    assert (_luminance(browser) < 0.2) is (scheme == "dark")
    painted = browser.execute_script("""
        return [...document.querySelectorAll('figure.drawn canvas')].map((canvas) => {
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const found = new Set();
            for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] === 255)
                found.add(pixels.slice(at, at + 3).join());
            return found.size;
        })""")
    assert [colours > 2 for colours in painted] == [True] * (page in _CHARTS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", _PAGES)
def test_a_page_is_accessible(browser: Driver, pages: dict[str, str], page: str, scheme: str) -> None:
    """By the rules of axe-core, contrast among them; tables are read too, not only charts."""
    _open(browser, pages[page], scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = Axe().run(browser)["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


def test_a_page_is_small_and_painted_soon(browser: Driver, pages: dict[str, str]) -> None:
    """Under 100 KB beside the chart library; once its answer begins to come, painted within a second."""
    paints = []
    for page in pages.values():
        _open(browser, page)
        painted = "return performance.getEntriesByName('first-contentful-paint').length"
        _wait(browser, lambda: browser.execute_script(painted))  # noqa: B023 - called at once
        measured = browser.execute_script("""
            const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
            const own = all.filter((one) => !one.name.includes('/uplot/'));
            const paint = performance.getEntriesByName('first-contentful-paint')[0];
            return [own.reduce((sum, one) => sum + one.decodedBodySize, 0), paint.startTime - all[0].responseStart]""")
        assert 0 < measured[0] < _MOST_BYTES
        paints.append(measured[1])
    assert sorted(paints)[len(paints) // 2] < _MOST_PAINT_MS


def test_times_are_utc_and_local(browser: Driver, address: str) -> None:
    """Every one of them, both with their zone."""
    _open(browser, address)
    times = browser.find_elements(By.CSS_SELECTOR, "main time")
    local = browser.find_elements(By.CSS_SELECTOR, "main time + .local")
    assert len(times) == len(local) > 48
    assert browser.find_element(By.ID, "asof").text.count("UTC") == 1
    assert browser.find_element(By.CSS_SELECTOR, "#asof .local").text.endswith(("CET", "CEST", "GMT+1", "GMT+2"))


def test_everything_is_reached_by_keyboard(browser: Driver, address: str) -> None:
    """The first key leads past the header; on the chart, arrows read it hour by hour."""
    _open(browser, address)
    keys = ActionChains(browser)
    keys.send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.text == "Skip to content"
    keys.send_keys(Keys.ENTER).perform()
    _wait(browser, lambda: browser.switch_to.active_element.get_attribute("id") == "main")
    for _ in range(10):
        keys.send_keys(Keys.TAB).perform()
        if browser.switch_to.active_element.get_attribute("role") == "img":
            break
    readout = browser.find_element(By.ID, "hourly-readout")
    before = readout.text
    keys.send_keys(Keys.ARROW_LEFT).perform()
    assert readout.text != before
    assert "UTC" in readout.text


def test_a_page_renews_itself(browser: Driver, address: str, settings: Settings) -> None:
    """A session that begins is counted without a reload, and what somebody has opened stays open."""
    with _hastened(browser):
        _open(browser, address)
    browser.find_element(By.CSS_SELECTOR, "#hourly-table summary").click()

    def live() -> int:
        # In one step, because the page may put another element there at any moment.
        return int(browser.execute_script("return document.querySelector('#tiles .big').textContent"))

    before = live()
    browser.execute_script("window.sameDocument = true")
    begun = Session("agent", connected_at_ms=NOW_MS - MS_PER_MINUTE, last_seen_ms=NOW_MS - MS_PER_MINUTE)
    with closing(Store.open(settings.store)) as store:
        store.write(Batch(sessions=[("acme", "RM_new", "PA_new", begun)]))
    _wait(browser, lambda: live() == before + 1)
    assert browser.execute_script("return window.sameDocument")
    assert browser.find_element(By.ID, "hourly-table").get_attribute("open") is not None


def test_a_scheme_that_changes_is_followed(browser: Driver, address: str) -> None:
    """Charts are painted anew in the colours of the other scheme."""
    _open(browser, address)
    canvas = browser.find_element(By.CSS_SELECTOR, "figure.drawn canvas")
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    _wait(browser, lambda: browser.find_element(By.CSS_SELECTOR, "figure.drawn canvas") != canvas)
    assert _luminance(browser) < 0.2


def test_without_an_answer_the_page_says_so(browser: Driver, address: str) -> None:
    """What is shown stays, with since when it is old."""
    with _hastened(browser):
        _open(browser, address)
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    trouble = browser.find_element(By.ID, "trouble")
    _wait(browser, trouble.is_displayed)
    browser.execute_cdp_cmd("Network.disable", {})
    assert "Not updated since" in trouble.text
    browser.get_log("browser")  # type: ignore[no-untyped-call]
