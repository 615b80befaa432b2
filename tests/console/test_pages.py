"""The pages of the console, over HTTP: what they show, to whom, and that names stay text."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import pytest
import pytest_asyncio

from pipeline.clickhouse import Store
from pipeline.console.app import HEADERS
from pipeline.gateway.projects import InvalidProjects
from pipeline.metering.units import MS_PER_DAY, MS_PER_HOUR, format_time
from pipeline.rows import UsageQuery
from pipeline.settings import Settings
from tests.console.stage import HOSTILE, HOSTILE_PROJECTS, NOW_MS, SENDING, TOKENS, fed_store, served
from tests.metering.builders import METERS, ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PAGES: Final = ("/", "/projects", "/project?name=acme", "/project?name=acme&span=30d&show=flagged", "/alerts")
_OPEN: Final = "/session?project=acme&room=RM_open&session=PA_open"
_STATIC: Final = ROOT / "pipeline" / "console" / "static"
#: A page with its style and script, in bytes; the chart library is not counted.
_MOST_BYTES: Final = 100_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A store with a day of calls."""
    with fed_store(tmp_path_factory.mktemp("console")) as found:
        yield found


# One for all tests: it asks nothing twice.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """The console on loopback, open to whoever reaches it."""
    async with served(settings) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded_port(settings: Settings) -> AsyncIterator[int]:
    """The console that asks for tokens."""
    async with served(settings.model_copy(update={"console_require_token": True})) as port:
        yield port


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(guarded_port: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A browser of its own at the console that asks for tokens; its jar keeps cookies of addresses too."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{guarded_port}", cookie_jar=jar) as client:
        yield client


class _Elements(HTMLParser):
    """Every element of a page with its attributes, as a browser's parser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def links(self, path: str) -> list[str]:
        """Return the addresses of links to a page."""
        found = (str(attributes.get("href", "")) for tag, attributes in self.found if tag == "a")
        return [address for address in found if urlsplit(address).path == path]


async def _text(client: aiohttp.ClientSession, address: str, status: int = 200, token: str = "") -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with client.get(address, headers=headers, allow_redirects=False) as response:
        text = await response.text()
        assert response.status == status, text
        return text


def _words(text: str) -> str:
    """Return what a reader sees of a page, more or less."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


async def test_the_overview_counts_what_the_store_counts(session: aiohttp.ClientSession, settings: Settings) -> None:
    """Live sessions, and the minutes of the chart's table, which add up to the usage of 48 hours."""
    with closing(Store.open(settings.store)) as store:
        cells = store.usage(UsageQuery(as_of_ms=NOW_MS, from_ms=NOW_MS - NOW_MS % MS_PER_HOUR - 47 * MS_PER_HOUR))
    timed = {name for name, meter in METERS.items() if meter.measures == "session"}
    expected = sum(cell.increments for (_, meter, _), cell in cells if meter in timed)
    text = await _text(session, "/")
    values = re.findall(r'<data value="(\d+)">', text)
    assert (len(values) % 48, sum(map(int, values))) == (0, expected)


async def test_the_project_page_compares_with_the_period_before(
    session: aiohttp.ClientSession, settings: Settings
) -> None:
    """Each row of the table: the hour, and the same hour a day before."""
    with closing(Store.open(settings.store)) as store:
        cells = dict(store.usage(UsageQuery(as_of_ms=NOW_MS, project="acme", meter="webrtc_minutes")))
    hour_ms = NOW_MS - NOW_MS % MS_PER_HOUR - 2 * MS_PER_HOUR
    now, before = (
        cells[key].increments if (key := ("acme", "webrtc_minutes", at_ms)) in cells else 0
        for at_ms in (hour_ms, hour_ms - MS_PER_DAY)
    )
    text = await _text(session, "/project?name=acme&meter=webrtc_minutes")
    [row] = re.findall(rf'<th scope="row"><time datetime="{format_time(hour_ms)}">.*?</tr>', text)
    assert re.findall(r'<data value="(\d+)">', row) == [str(now), str(before)]


async def test_the_project_page_has_limits_and_the_invoice_so_far(session: aiohttp.ClientSession) -> None:
    """As `roommeter limits` and `roommeter invoice` say them; the base fee is due in advance."""
    words = _words(await _text(session, "/project?name=acme"))
    assert "agent session minutes per day" in words
    assert "participant sessions at once" in words
    assert re.search(r"Invoice so far 20\d\d-\d\d, USD .* base fee .* Total", words)


async def test_sessions_are_filtered_and_paged(session: aiohttp.ClientSession) -> None:
    """Open ones, flagged ones, those with a name that begins so; 25 a page, and every session on one of them once."""
    found: list[str] = []
    address: str | None = "/project?name=acme"
    while address:
        page = _Elements(await _text(session, address))
        found += page.links("/session")
        address = next((str(a["href"]) for tag, a in page.found if tag == "a" and a.get("rel") == "next"), None)
    assert len(found) > 50
    assert len(found) == len(set(found))
    opened = _Elements(await _text(session, "/project?name=acme&show=open")).links("/session")
    assert any("PA_open" in address for address in opened)
    lost = _Elements(await _text(session, "/project?name=acme&show=flagged&find=PA_lost")).links("/session")
    assert len(lost) == 1


async def test_a_session_is_explained(session: aiohttp.ClientSession) -> None:
    """As `roommeter explain` does: rules, events, and hours that add up; open, until the moment of the page."""
    text = await _text(session, _OPEN)
    words = _words(text)
    assert {"R3", "R8", "R16", "R1"} <= set(re.findall(r'class="rule">(R\d+)', text))
    assert "170 minutes" in words
    assert "session.sampled" in words
    hours = re.findall(r"agent_session_minutes: increments.*?</table>", text, re.DOTALL)[0]
    billed = [int(cell) for cell in re.findall(r'<td class="n">(\d+)</td></tr>', hours)]
    assert billed[-1] == sum(billed[:-1]) == 170


async def test_a_session_without_a_start_has_a_page_too(session: aiohttp.ClientSession) -> None:
    """R3: pending, and why."""
    words = _words(await _text(session, "/session?project=acme&room=RM_lost&session=PA_lost"))
    assert "end without start" in words
    assert "Nothing is billed" in words


async def test_alerts_are_shown_with_their_evidence(session: aiohttp.ClientSession) -> None:
    """What, since when, how much above what, and what to look at."""
    words = _words(await _text(session, "/alerts"))
    assert "connection storm" in words
    assert re.search(r"Observed 812 sessions Expected 9.5 sessions Costs about 8.03 USD", words)
    assert "roommeter sessions --project acme" in words
    assert "Nothing unusual" not in words


async def test_an_empty_project_says_what_to_do(session: aiohttp.ClientSession) -> None:
    """No table without rows, no chart without data."""
    words = _words(await _text(session, "/project?name=nobody"))
    assert "No usage in this time" in words
    assert "No session in the last 31 days" in words


def _check_text(text: str) -> None:
    """Assert that a page has nothing inline, no picture, and only links into itself."""
    page = _Elements(text)
    inline = [name for _, attributes in page.found for name in attributes if name.startswith("on") or name == "style"]
    scripts = [attributes for tag, attributes in page.found if tag == "script" and not attributes.get("src")]
    assert (inline, scripts, [tag for tag, _ in page.found if tag == "img"]) == ([], [], [])
    targets = [str(a.get("href") or a.get("src") or "/") for tag, a in page.found if tag in ("a", "link", "script")]
    assert {target for target in targets if not target.startswith(("/", "#"))} == set()


@pytest.mark.parametrize("name", HOSTILE_PROJECTS)
async def test_a_project_of_any_name_has_its_page(session: aiohttp.ClientSession, name: str) -> None:
    """The name is text on it, in every link, in the list it is found in, and of its alerts."""
    query = quote(name, safe="")
    for address in (f"/project?name={query}", f"/projects?find={query}", f"/alerts?project={query}"):
        _check_text(await _text(session, address))
    found = _Elements(await _text(session, f"/project?name={query}")).links("/session")
    assert {parse_qs(urlsplit(link).query)["project"][0] for link in found} == {name}


async def test_names_stay_text_wherever_they_are_shown(session: aiohttp.ClientSession) -> None:
    """Of rooms, sessions, identities, agents and alerts: no element or attribute comes from one, and links find it."""
    for address in ("/", "/projects", "/alerts"):
        _check_text(await _text(session, address))
    page = await _text(session, f"/project?name={quote(HOSTILE[0], safe='')}")
    links = _Elements(page).links("/session")
    assert {parse_qs(urlsplit(link).query)["session"][0] for link in links} == set(HOSTILE)
    for link in links:
        text = await _text(session, link)
        _check_text(text)
        [shown] = re.findall(r"<h1[^>]*><bdi>(.*?)</bdi></h1>", text)
        assert unescape(shown) == parse_qs(urlsplit(link).query)["session"][0]


@pytest.mark.parametrize("address", [*_PAGES, _OPEN, "/login", "/nowhere", "/static/console.js", "/static/none.js"])
async def test_every_answer_has_the_headers(session: aiohttp.ClientSession, address: str) -> None:
    """Pages, files and errors: nothing inline, nobody's frame, no guessing of types; pages are not kept."""
    async with session.get(address) as response:
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        is_page = response.content_type == "text/html"
        assert (response.headers["Cache-Control"] == "no-store") is is_page


@pytest.mark.parametrize("address", [*_PAGES, _OPEN])
async def test_a_page_is_small(session: aiohttp.ClientSession, address: str) -> None:
    """Under 100 KB with style and script, beside the chart library."""
    own = sum((_STATIC / name).stat().st_size for name in ("console.css", "console.js", "icon.svg"))
    assert len(await _text(session, address)) + own < _MOST_BYTES


async def test_files_are_kept_by_their_content(session: aiohttp.ClientSession) -> None:
    """For a year under the address that names it; only files of the directory are there."""
    page = _Elements(await _text(session, "/"))
    [script] = [str(a["src"]) for tag, a in page.found if tag == "script" and "uplot" in str(a["src"])]
    async with session.get(script) as response:
        assert "immutable" in response.headers["Cache-Control"]
    for address in ("/static/..%2fapp.py", "/static/uplot/LICENSE", "/static/%2e%2e/app.py"):
        await _text(session, address, 404)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1"])
async def test_without_tokens_another_name_of_this_machine_is_refused(
    session: aiohttp.ClientSession, host: str
) -> None:
    """A page of another site cannot read the console through a name of its own that leads to 127.0.0.1."""
    async with session.get("/", headers={"Host": host}) as response:
        assert response.status == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:8132", "127.0.0.1:1", "[::1]:8132", "[::1]"])
async def test_without_tokens_loopback_is_served(session: aiohttp.ClientSession, host: str) -> None:
    """By any of its names."""
    async with session.get("/alerts", headers={"Host": host}) as response:
        assert response.status == 200


async def test_without_a_token_there_is_only_the_login(guarded: aiohttp.ClientSession) -> None:
    """Every page leads there, and back afterwards; a wrong token of a program is told so."""
    async with guarded.get("/project?name=acme", allow_redirects=False) as response:
        led = urlsplit(response.headers["Location"])
        assert (response.status, led.path, parse_qs(led.query)) == (303, "/login", {"next": ["/project?name=acme"]})
    await _text(guarded, "/", 401, token=SENDING[::-1])
    await _text(guarded, "/login")


async def test_a_token_of_events_opens_no_page(guarded: aiohttp.ClientSession) -> None:
    """Least privilege: a media server's token shows nothing."""
    await _text(guarded, "/project?name=acme", 401, token=SENDING)


async def test_a_project_sees_itself_alone(guarded: aiohttp.ClientSession) -> None:
    """Another's page is 404, as one that does not exist; the first page leads to its own."""
    token = TOKENS["acme"]
    assert "acme" in await _text(guarded, "/project?name=acme", token=token)
    assert "PA_open" in await _text(guarded, _OPEN, token=token)
    other = await _text(guarded, "/project?name=globex", 404, token=token)
    nobody = await _text(guarded, "/project?name=nobody", 404, token=token)
    assert re.sub("globex|nobody", "", other) == re.sub("globex|nobody", "", nobody)
    for address in (_OPEN, "/alerts?project=acme", "/project?name=acme"):
        await _text(guarded, address, 404, token=TOKENS["globex"])
    for address in ("/", "/projects"):
        async with guarded.get(address, headers={"Authorization": f"Bearer {token}"}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/project?name=acme")


async def test_a_project_sees_its_own_alerts(guarded: aiohttp.ClientSession) -> None:
    """Neither those of others, nor those of the installation."""
    words = _words(await _text(guarded, "/alerts", token=TOKENS["acme"]))
    assert "connection storm" in words
    assert "server silent" not in words
    assert "began too much" not in words
    assert "connection storm" not in _words(await _text(guarded, "/alerts", token=TOKENS["globex"]))


async def test_an_operator_sees_every_project(guarded: aiohttp.ClientSession) -> None:
    """With the token of nobody's project."""
    for address in ("/", "/project?name=acme", "/project?name=globex"):
        await _text(guarded, address, token=TOKENS["jo"])


async def test_a_person_logs_in_and_out(guarded: aiohttp.ClientSession) -> None:
    """The cookie is not the token, no script reads it, no other site sends it; logging out ends the session itself."""
    async with guarded.post("/login", data={"token": "guess", "next": "/"}) as response:
        assert response.status == 403
    form = {"token": TOKENS["acme"], "next": "/alerts"}
    async with guarded.post("/login", data=form, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/alerts")
        cookie = response.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKENS["acme"] not in cookie
    await _text(guarded, "/project?name=acme")
    async with guarded.post("/logout", allow_redirects=False) as response:
        assert response.headers["Location"] == "/login"
    await _text(guarded, "/project?name=acme", 303)
    async with guarded.get("/project?name=acme", headers={"Cookie": cookie}, allow_redirects=False) as response:
        assert response.status == 303


@pytest.mark.parametrize("after", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"])
async def test_the_login_leads_to_no_other_site(guarded: aiohttp.ClientSession, after: str) -> None:
    """Whatever a link to it says."""
    form = {"token": TOKENS["acme"], "next": after}
    async with guarded.post("/login", data=form, allow_redirects=False) as response:
        assert response.headers["Location"] == "/"


async def test_a_form_of_another_site_is_refused(guarded: aiohttp.ClientSession) -> None:
    """Browsers say where a form comes from."""
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        async with guarded.post("/login", data={"token": TOKENS["acme"]}, headers=headers) as response:
            assert response.status == 403


async def test_guessing_is_slow(guarded: aiohttp.ClientSession) -> None:
    """429 after a burst."""
    answers = []
    for _ in range(40):
        async with guarded.post("/login", data={"token": "guess"}) as response:
            answers.append(response.status)
    assert {403, 429} == set(answers)


async def test_no_token_no_start(settings: Settings) -> None:
    """Bound elsewhere, or behind a proxy, without anybody who could look: the error says what to do."""
    for changes in ({"console_host": "192.0.2.1"}, {"console_require_token": True}):
        with pytest.raises(InvalidProjects, match=r"use = \"console\""):
            async with served(settings.model_copy(update={**changes, "projects_file": None})):
                pass


async def test_a_store_that_is_missing_is_a_readable_page(settings: Settings, tmp_path: Path) -> None:
    """500 with the reason for an operator, and nothing of the installation for a project."""
    other = settings.model_copy(update={"database": "nothing_here", "console_require_token": True})
    async with served(other) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        assert "roommeter migrate" in await _text(client, "/", 500, token=TOKENS["jo"])
        words = await _text(client, "/project?name=acme", 500, token=TOKENS["acme"])
    assert "migrate" not in words
    assert str(tmp_path.parent) not in words
