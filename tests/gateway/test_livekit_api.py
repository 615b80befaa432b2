"""The client of LiveKit's server API, against a fake of it that LiveKit's own client takes for real."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from livekit import api
from livekit.protocol.models import ParticipantInfo
from livekit.protocol.room import ListParticipantsRequest, ListRoomsRequest

from pipeline.embedded import now_ms
from pipeline.gateway.projects import LivekitKey, Project
from pipeline.livekit.api import TOKEN_LIFETIME_S, ApiAway, ApiRefused, Limits, LivekitApi, access_token
from pipeline.livekit.reconcile import ListedRoom, Participant
from tests.faults.livekit_api import KEY, PRIVATE, FakeLivekit, Fault

#: Errors that pass are asked about again at once; nothing here may wait.
LIMITS = Limits(request_s=5, pass_s=5, pause_s=0, attempts=3, concurrent=3)
JOINED_MS = 1_789_999_203_905


@pytest.fixture
async def server() -> AsyncIterator[FakeLivekit]:
    """A server that has nobody connected."""
    async with FakeLivekit() as fake:
        yield fake


@asynccontextmanager
async def _client(project: Project, limits: Limits = LIMITS) -> AsyncIterator[LivekitApi]:
    async with LivekitApi(project, now_ms, limits) as client:
        yield client


async def _rooms(server: FakeLivekit, limits: Limits = LIMITS, **project: object) -> list[ListedRoom]:
    async with _client(server.project(**project), limits) as client:
        return await client.rooms()


async def test_the_official_client_takes_the_fake_for_a_server(server: FakeLivekit) -> None:
    """What the fake accepts and answers is what LiveKit's own client sends and understands."""
    server.join("support", "PA_1", JOINED_MS)
    async with api.LiveKitAPI(server.url, KEY.key, KEY.secret.decode()) as client:
        rooms = await client.room.list_rooms(ListRoomsRequest())
        people = await client.room.list_participants(ListParticipantsRequest(room="support"))
    assert [(room.sid, room.name) for room in rooms.rooms] == [("RM_support", "support")]
    assert [(person.sid, person.joined_at_ms) for person in people.participants] == [("PA_1", JOINED_MS)]


async def test_the_fake_refuses_the_official_client_with_a_wrong_secret(server: FakeLivekit) -> None:
    """And so it would refuse us."""
    async with api.LiveKitAPI(server.url, KEY.key, "not the secret, but as long as one") as client:
        with pytest.raises(api.TwirpError) as refused:
            await client.room.list_rooms(ListRoomsRequest())
    assert refused.value.status == 401


async def test_every_participant_of_every_room_is_listed(server: FakeLivekit) -> None:
    """ListRooms, then ListParticipants by each room's name."""
    server.join("support", "PA_1", JOINED_MS)
    server.join("sales", "PA_2", JOINED_MS, kind=ParticipantInfo.Kind.AGENT)
    assert await _rooms(server) == [
        ListedRoom("RM_support", "support", (Participant("PA_1", "participant", True, JOINED_MS),)),  # noqa: FBT003
        ListedRoom("RM_sales", "sales", (Participant("PA_2", "agent", True, JOINED_MS),)),  # noqa: FBT003
    ]


async def test_nothing_private_is_kept(server: FakeLivekit) -> None:
    """Passwords, names, metadata, phone numbers and identities stay where they are."""
    server.join("support", "PA_1", kind=ParticipantInfo.Kind.SIP)
    kept = repr(await _rooms(server))
    assert "PA_1" in kept
    assert not [private for private in PRIVATE if private in kept]


async def test_a_self_hosted_agent_is_what_the_project_says(server: FakeLivekit) -> None:
    """With agents = "hosted" only LiveKit's own are agents, as in the project's webhooks."""
    server.join("support", "PA_1", kind=ParticipantInfo.Kind.AGENT)
    server.join("support", "PA_2", kind=ParticipantInfo.Kind.AGENT, kind_details=[ParticipantInfo.CLOUD_AGENT])
    [room] = await _rooms(server, agents="hosted")
    assert [person.kind for person in room.participants or ()] == ["participant", "agent"]


@pytest.mark.parametrize("kind", [ParticipantInfo.Kind.EGRESS, ParticipantInfo.Kind.INGRESS, 99])
async def test_recorders_importers_and_unknown_kinds_have_no_kind_of_ours(server: FakeLivekit, kind: int) -> None:
    """They are never opened as something that is billed (R21)."""
    server.join("support", "PA_1", kind=kind)
    [room] = await _rooms(server)
    assert [person.kind for person in room.participants or ()] == [""]


async def test_only_an_active_participant_is_active_and_a_disconnected_one_is_gone(server: FakeLivekit) -> None:
    """Signalling alone starts nothing (R4)."""
    for number, state in enumerate(("JOINING", "JOINED", "ACTIVE", "DISCONNECTED")):
        server.join("support", f"PA_{number}", state=ParticipantInfo.State.Value(state))
    [room] = await _rooms(server)
    assert {person.session: person.is_active for person in room.participants or ()} == {
        "PA_0": False,
        "PA_1": False,
        "PA_2": True,
    }


async def test_an_old_server_knows_seconds_only(server: FakeLivekit) -> None:
    """The field joinedAtMs is written since server 1.8.4; before, joinedAt has to do."""
    server.join("support", "PA_1", joined_at=1_789_999_203, joined_at_ms=0)
    [room] = await _rooms(server)
    assert [person.joined_at_ms for person in room.participants or ()] == [1_789_999_203_000]


async def test_a_room_that_does_not_answer_leaves_the_others_answered(server: FakeLivekit) -> None:
    """A partial answer is told apart from an empty one."""
    server.join("support", "PA_1")
    server.open_room("sales")
    server.faults["support"] = Fault(code="internal")
    answered = {room.name: room.participants for room in await _rooms(server)}
    assert answered == {"support": None, "sales": ()}


async def test_a_room_that_ends_between_the_two_questions_has_not_answered(server: FakeLivekit) -> None:
    """404 for a room that was listed a moment ago: the next pass will not find it listed."""
    server.open_room("support")
    server.faults["support"] = Fault(code="not_found")
    assert [room.participants for room in await _rooms(server)] == [None]


async def test_an_error_of_the_server_is_asked_about_again(server: FakeLivekit) -> None:
    """5xx and broken connections pass as a rule."""
    server.join("support", "PA_1")
    server.faults["ListRooms"] = Fault(code="unavailable", times=2)
    server.faults["support"] = Fault(cut=True, times=2)
    [room] = await _rooms(server)
    assert room.participants
    assert server.asked.count(("ListRooms", "")) == 3


@pytest.mark.parametrize(
    "fault",
    [Fault(code="unavailable"), Fault(code="internal"), Fault(code="resource_exhausted"), Fault(cut=True)],
    ids=lambda fault: fault.code or "cut",
)
async def test_a_server_in_trouble_is_away(server: FakeLivekit, fault: Fault) -> None:
    """Nobody has to mend anything, and nothing was answered."""
    server.faults["ListRooms"] = fault
    with pytest.raises(ApiAway, match="ListRooms"):
        await _rooms(server)
    assert len(server.asked) <= LIMITS.attempts


async def test_a_rate_limit_is_not_asked_again_at_once(server: FakeLivekit) -> None:
    """429: asking more is what it is about."""
    server.faults["ListRooms"] = Fault(code="resource_exhausted")
    with pytest.raises(ApiAway, match="429"):
        await _rooms(server)
    assert len(server.asked) == 1


async def test_a_server_that_says_nothing_is_away(server: FakeLivekit) -> None:
    """No request is without end."""
    server.faults["ListRooms"] = Fault(hang=True)
    with pytest.raises(ApiAway, match="TimeoutError"):
        await _rooms(server, Limits(request_s=0.1, attempts=1))


async def test_a_room_that_says_nothing_does_not_hold_up_the_pass(server: FakeLivekit) -> None:
    """A pass has a time limit of its own; what is not answered by then is not answered."""
    server.open_room("slow")
    server.open_room("quick")
    server.faults["slow"] = Fault(hang=True)
    answered = await _rooms(server, Limits(request_s=30, pass_s=0.3, attempts=1))
    assert {room.name: room.participants for room in answered} == {"slow": None, "quick": ()}


async def test_no_server_at_the_address_is_away() -> None:
    """A refused connection, too, may be another in a minute."""
    project = Project("acme", livekit_url="http://127.0.0.1:9", livekit=(KEY,))
    async with _client(project) as client:
        with pytest.raises(ApiAway, match="3 times"):
            await client.rooms()


async def test_a_wrong_secret_is_refused_with_advice_and_without_the_secret(server: FakeLivekit) -> None:
    """Somebody has to mend it; asking again is of no use."""
    wrong = LivekitKey(KEY.key, b"not the secret, but as long as one")
    with pytest.raises(ApiRefused, match="401: mend the project's livekit key") as refused:
        await _rooms(server, livekit=(wrong,))
    assert "secret, but" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"status": "ok"}', b'{"rooms": {}}', b'{"rooms": [{"sid": "RM_1"}]}', b'{"rooms": [1]}'],
)
async def test_what_is_not_livekits_answer_is_refused(server: FakeLivekit, body: bytes) -> None:
    """Another server at that URL must not look like one without rooms."""
    server.faults["ListRooms"] = Fault(body=body)
    with pytest.raises(ApiRefused, match="livekit_url"):
        await _rooms(server)


async def test_an_answer_that_leaves_out_its_default_is_empty(server: FakeLivekit) -> None:
    """Proto3 JSON may leave out an empty list."""
    server.faults["ListRooms"] = Fault(body=b"{}")
    assert await _rooms(server) == []


async def test_a_participant_that_is_none_makes_its_room_unanswered(server: FakeLivekit) -> None:
    """Who cannot be read may be one of ours: the room has not answered."""
    server.open_room("support")
    server.faults["support"] = Fault(body=b'{"participants": [{"sid": "PA_1"}, {"identity": "?"}]}')
    assert [room.participants for room in await _rooms(server)] == [None]


async def test_an_answer_without_bound_is_refused(server: FakeLivekit) -> None:
    """Memory is bounded, whatever a server sends."""
    server.faults["ListRooms"] = Fault(body=b'{"rooms": [' + b" " * 100_000 + b"]}")
    with pytest.raises(ApiRefused, match="larger than 50000 bytes"):
        await _rooms(server, Limits(answer_bytes=50_000))


async def test_a_token_is_not_carried_to_another_address(server: FakeLivekit) -> None:
    """Redirects are not followed."""
    async with FakeLivekit() as other:
        server.faults["ListRooms"] = Fault(redirect=f"{other.url}/twirp/livekit.RoomService/ListRooms")
        with pytest.raises(ApiRefused, match="307"):
            await _rooms(server)
        assert other.asked == []


async def test_so_many_rooms_are_asked_about_at_a_time(server: FakeLivekit) -> None:
    """A server with a thousand rooms is not asked a thousand questions at once."""
    for number in range(9):
        server.open_room(f"room-{number}")
    server.barrier = asyncio.Barrier(LIMITS.concurrent)
    assert len(await _rooms(server)) == 9
    assert server.most_at_once == LIMITS.concurrent


async def test_a_token_grants_one_thing_for_a_minute() -> None:
    """LiveKit's own verifier reads it as we mean it."""
    token = access_token(KEY, {"roomAdmin": True, "room": "support"}, now_ms() // 1_000)
    claims = api.TokenVerifier(KEY.key, KEY.secret.decode()).verify(token)
    assert claims.video is not None
    assert (claims.video.room_admin, claims.video.room) == (True, "support")
    assert not claims.video.room_list
    late = access_token(KEY, {"roomList": True}, now_ms() // 1_000 - TOKEN_LIFETIME_S - 61)
    with pytest.raises(Exception, match="expired"):
        api.TokenVerifier(KEY.key, KEY.secret.decode()).verify(late)


async def test_a_project_without_url_or_key_is_refused_before_anybody_is_asked() -> None:
    """The advice names what is missing."""
    with pytest.raises(ApiRefused, match="livekit_url"):
        LivekitApi(Project("acme", livekit=(KEY,)), now_ms)
