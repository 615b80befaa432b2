"""What the gateway answers, route by route, over real HTTP."""

import asyncio
import gzip

import orjson
import pytest

from pipeline.gateway.outbox import OutboxFull
from tests.gateway.bodies import JANUS as JANUS_CALL
from tests.gateway.bodies import event
from tests.gateway.running import BATCH, JANUS, KEY, SECRET, STRUCTURED, TOKEN, Running, running
from tests.gateway.signing import CALL, sign_livekit


async def test_every_webhook_of_a_call_is_accepted(gateway: Running) -> None:
    """All payloads of one call, signed: each is accepted, and becomes messages of the lifecycle topic."""
    for body in CALL:
        status, answer = await gateway.webhook(body)
        assert (status, answer["accepted"]) == (200, 1)
    assert gateway.outbox.letters() == []
    assert {message.key for message in gateway.outbox.messages} == {b"acme/RM_7Yk3hQpWvTzD"}
    assert gateway.metric("roommeter_gateway_events_total", disposition="accepted") == len(CALL)


async def test_a_webhook_is_kept_before_it_is_answered(gateway: Running) -> None:
    """A 2xx says that the event is durable: while the outbox waits, so does the answer."""
    gateway.outbox.hold.clear()
    answer = asyncio.create_task(gateway.webhook(CALL[0]))
    await gateway.outbox.arrived.get()
    assert (await asyncio.wait({answer}, timeout=0.1))[0] == set()
    gateway.outbox.hold.set()
    assert (await answer)[0] == 200


async def test_what_cannot_be_kept_is_to_be_sent_again(gateway: Running) -> None:
    """R22: a full outbox is 503 with the time after which another attempt is worth it."""
    gateway.outbox.refusal = OutboxFull("the spool is full", retry_after_s=7)
    headers = {"Authorization": sign_livekit(KEY, SECRET, CALL[0], gateway.clocks.now_ms // 1000)}
    async with gateway.client.post("/webhooks/livekit", data=CALL[0], headers=headers) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
        assert response.content_type == "application/problem+json"
    assert gateway.metric("roommeter_gateway_events_total", disposition="accepted") == 0


async def test_an_unknown_webhook_is_ignored_and_counted(gateway: Running) -> None:
    """R21: what a newer server sends is no error."""
    status, answer = await gateway.webhook(b'{"event":"room_painted","id":"EV_1","createdAt":"1789999200","paint":1}')
    assert (status, answer["ignored"], gateway.outbox.messages) == (200, 1, [])
    assert gateway.metric("roommeter_gateway_events_total", disposition="ignored") == 1
    assert gateway.metric("roommeter_gateway_unknown_fields_total") == 1


async def test_a_webhook_that_cannot_be_understood_is_a_dead_letter(gateway: Running) -> None:
    """R21: its server is known and will not send it again, so it is kept, explained and counted."""
    status, answer = await gateway.webhook(b'{"event":"participant_joined","id":"EV_1","createdAt":"1789999200"}')
    assert (status, answer["dead_letter"], answer["events"][0]["reason"]) == (200, 1, "missing_field")
    (letter,) = gateway.outbox.letters()
    said = dict(letter.headers)
    assert (said["origin"], said["project"], said["reason"]) == (b"webhooks/livekit", b"acme", b"missing_field")
    assert gateway.metric("roommeter_dead_letters_total", reason="missing_field") == 1


async def test_events_of_a_janus_server_are_accepted(gateway: Running) -> None:
    """A batch as its event handler posts it, by user and password."""
    status, answer = await gateway.janus(JANUS_CALL)
    assert (status, answer["dead_letter"], len(answer["events"])) == (200, 0, len(JANUS_CALL))
    types = [document["type"] for document in gateway.outbox.documents()]
    assert types.count("session.connected") == 1
    assert "session.disconnected" in types


async def test_one_janus_event_that_is_wrong_stops_no_other(gateway: Running) -> None:
    """R21: events of a batch are taken one by one."""
    status, answer = await gateway.janus([JANUS_CALL[0], 7, {"type": 64, "emitter": "x"}])
    assert (status, answer["accepted"], answer["dead_letter"]) == (200, 1, 2)


async def test_janus_without_its_password_is_told_what_is_asked_for(gateway: Running) -> None:
    """401 with a challenge; nothing says whether the user or the password was wrong."""
    for authorization in ("", "Basic", "Basic !", "Basic aTpq", f"Bearer {TOKEN}"):
        async with gateway.client.post(
            "/webhooks/janus", data=b"[]", headers={"Authorization": authorization}
        ) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Basic realm="roommeter"')
    assert gateway.metric("roommeter_gateway_refused_total", cause="credentials") == 5


async def test_a_structured_event_is_accepted(gateway: Running) -> None:
    """CloudEvents, structured mode."""
    assert (await gateway.event(event()))[1]["accepted"] == 1
    assert gateway.outbox.documents() == [event()]


async def test_a_binary_event_is_accepted(gateway: Running) -> None:
    """CloudEvents, binary mode: attributes in headers, percent-encoded, and the data as body."""
    posted = event()
    headers = {f"ce-{name}": value for name, value in posted.items() if name != "data"}
    headers |= {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "ce-id": "EV%201"}
    assert (await gateway.post("/v1/events", orjson.dumps(posted["data"]), headers))[1]["accepted"] == 1
    assert gateway.outbox.documents() == [posted | {"id": "EV 1"}]


async def test_a_batch_is_answered_event_by_event(gateway: Running) -> None:
    """CloudEvents, batch mode: accepted, ignored, dead, refused, in the order sent."""
    wrong = event("PA_2", kind="ghost")
    unknown = event("PA_3") | {"type": "room.painted"}
    foreign = event("PA_4", project="other")
    status, answer = await gateway.batch([event("PA_1"), wrong, unknown, foreign])
    assert status == 200
    assert [told["disposition"] for told in answer["events"]] == ["accepted", "dead_letter", "ignored", "refused"]
    assert [told["id"] for told in answer["events"]] == ["EV_PA_1", "EV_PA_2", "EV_PA_3", "EV_PA_4"]
    assert answer["events"][1]["reason"] == "unknown_kind"


async def test_an_event_of_another_project_is_forbidden(gateway: Running) -> None:
    """A token speaks for its own project alone."""
    status, answer = await gateway.event(event(project="other"))
    assert (status, answer["detail"]) == (403, "data.project is not the project of this token")
    assert gateway.outbox.messages == []
    assert gateway.metric("roommeter_gateway_refused_total", cause="project") == 1


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/cloudevents+avro", "application/octet-stream"]
)
async def test_what_is_not_cloudevents_is_told_what_is(gateway: Running, content_type: str) -> None:
    """415: the specification tells its modes apart by content type, and plain JSON is none of them."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}
    async with gateway.client.post("/v1/events", data=orjson.dumps(event()), headers=headers) as response:
        assert (response.status, response.content_type) == (415, "application/problem+json")
        assert "application/cloudevents+json" in response.headers["Accept-Post"]


async def test_a_packed_event_is_unpacked(gateway: Running) -> None:
    """Content-Encoding gzip and deflate, for senders whose token or password is known."""
    packed = gzip.compress(orjson.dumps(event()))
    status, answer = await gateway.post("/v1/events", packed, STRUCTURED | {"Content-Encoding": "gzip"})
    assert (status, answer["accepted"]) == (200, 1)


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"{}", 415),
        ("gzip, gzip", b"{}", 415),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400),
    ],
)
async def test_what_is_packed_wrongly_is_refused(gateway: Running, coding: str, body: bytes, status: int) -> None:
    """A body that was damaged on its way is for its sender to send again."""
    assert (await gateway.post("/v1/events", body, STRUCTURED | {"Content-Encoding": coding}))[0] == status


async def test_too_many_events_at_once_are_refused() -> None:
    """413, before any of them is taken."""
    async with running(gateway_batch_events=2) as gateway:
        assert (await gateway.batch([event(), event(), event()]))[0] == 413
        assert (await gateway.janus([{}, {}, {}]))[0] == 413
        assert gateway.outbox.messages == []


async def test_other_routes_and_methods_are_problems_too(gateway: Running) -> None:
    """RFC 9457 for every error, and Allow where the method is the problem."""
    async with gateway.client.get("/v1/events") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    async with gateway.client.get("/") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
    assert gateway.metric("roommeter_gateway_requests_total", route="none", status="404") == 1


async def test_an_error_of_ours_says_nothing_of_the_body(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is 500, to be tried again; the log names the place, never what was being handled."""
    gateway.outbox.refusal = RuntimeError("secret")
    assert (await gateway.batch([event()]))[0] == 500
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_janus_sessions_are_remembered_between_requests(gateway: Running) -> None:
    """Janus tells the room in one event and the connection in another, which may come in another request."""
    for said in JANUS_CALL:
        assert (await gateway.post("/webhooks/janus", orjson.dumps(said), {"Authorization": JANUS}))[0] == 200
    rooms = {
        document["data"].get("room")
        for document in gateway.outbox.documents()
        if document["type"] != "server.restarted"
    }
    assert len(rooms - {None}) >= 1
    assert gateway.outbox.letters() == []


async def test_a_batch_that_is_no_list_is_a_dead_letter(gateway: Running) -> None:
    """R21: the token is known, so what came with it is kept."""
    status, answer = await gateway.post("/v1/events", b"{}", BATCH)
    assert (status, answer["dead_letter"], answer["events"][0]["reason"]) == (200, 1, "wrong_field")
