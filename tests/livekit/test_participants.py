"""LiveKit webhooks as canonical events: who a participant is, and what of it passes."""

from typing import Any, Literal

import pytest

from pipeline.livekit.webhooks import canonical
from pipeline.metering.events import InvalidEvent, Reason, parse_event
from tests.livekit.webhooks import CALL, data_of, ingress, joined, webhook
from tests.metering.builders import METERS


@pytest.mark.parametrize(
    ("kind", "canonical_kind"),
    [
        (None, "participant"),
        ("STANDARD", "participant"),
        ("CONNECTOR", "participant"),
        ("BRIDGE", "participant"),
        ("AGENT", "agent"),
        ("SIP", "sip"),
        (0, "participant"),
        (3, "sip"),
        (4, "agent"),
        (7, "participant"),
    ],
)
def test_a_kind_of_participant_is_one_of_ours(kind: str | int | None, canonical_kind: str) -> None:
    """R16: the kinds that meters know; STANDARD is left out on the wire, and a number is as good as its name."""
    assert data_of(joined(kind=kind))["kind"] == canonical_kind


@pytest.mark.parametrize("kind", ["HOLOGRAM", 9, 5, -1, "PARTICIPANT", "agent", "SIP2"])
def test_an_unknown_kind_is_quarantined_and_not_billed_as_another(kind: str | int) -> None:
    """R21: the core refuses it as unknown_kind, even where its name looks like one of ours."""
    (document,) = canonical(joined(kind=kind) | {"event": "participant_left"}, "acme")
    with pytest.raises(InvalidEvent) as refused:
        parse_event(document, METERS)
    assert refused.value.reason is Reason.UNKNOWN_KIND


@pytest.mark.parametrize("kind", ["EGRESS", "INGRESS"])
@pytest.mark.parametrize("event", ["participant_joined", "participant_left", "participant_connection_aborted"])
def test_a_recorder_in_the_room_is_not_metered_as_a_participant(event: str, kind: str) -> None:
    """R16: egress and ingress are metered by their own webhooks; once is enough."""
    assert canonical(joined(kind=kind) | {"event": event}, "acme") == []


def test_an_agent_has_its_name_and_a_phone_caller_no_identity() -> None:
    """A caller's identity is made of the caller's phone number."""
    agent, caller = data_of(CALL[2]), data_of(CALL[4])
    assert (agent["agent"], agent["identity"]) == ("support", "agent-AJ_kYas98RK5hYf")
    assert "identity" not in caller


def test_a_call_in_on_a_rented_number_names_the_number() -> None:
    """R16: phone_inbound_minutes need the number; a call out has no dispatch rule and names none."""
    attributes = {"sip.trunkPhoneNumber": "+15105550199", "sip.ruleID": "SDR_1"}
    assert data_of(joined(kind="SIP", attributes=attributes))["number"] == "+15105550199"
    del attributes["sip.ruleID"]
    assert "number" not in data_of(joined(kind="SIP", attributes=attributes))


class _Hashed:
    """A project that keeps no identity but its length, and takes hosted agents alone for agents."""

    agents: Literal["hosted"] = "hosted"

    def identity_of(self, identity: str) -> str:
        return f"{len(identity)} characters"


@pytest.mark.parametrize(
    ("participant", "kind"),
    [
        ({"kind": "AGENT", "kindDetails": ["CLOUD_AGENT"]}, "agent"),
        ({"kind": "AGENT", "kindDetails": ["FORWARDED", "CLOUD_AGENT"]}, "agent"),
        ({"kind": 4, "kind_details": [0]}, "agent"),
        ({"kind": "AGENT", "kindDetails": ["FUTURE", 99]}, "participant"),
        ({"kind": "AGENT"}, "participant"),
        ({"permission": {"agent": True}}, "participant"),
        ({"kindDetails": ["CLOUD_AGENT"]}, "participant"),
        ({"kind": "SIP", "kindDetails": ["CLOUD_AGENT"]}, "sip"),
    ],
)
def test_a_project_may_take_hosted_agents_alone_for_agents(participant: dict[str, Any], kind: str) -> None:
    """R16: an agent without CLOUD_AGENT is a participant like any other then."""
    (document,) = canonical(joined(**participant), "acme", policy=_Hashed())
    assert document["data"]["kind"] == kind


@pytest.mark.parametrize(
    "participant",
    [
        {"kind": "AGENT", "kindDetails": ["SIMULATION"]},
        {"kind": "AGENT", "attributes": {"lk.publish_on_behalf": "agent-AJ_1"}},
        {"permission": {"agent": True}},
        {"kind": "STANDARD", "permission": {"agent": True, "hidden": True}},
    ],
)
def test_whoever_is_an_agent_is_billed_as_one_unless_the_project_says_otherwise(participant: dict[str, Any]) -> None:
    """R2, R16: test traffic, an avatar beside its agent, and agents of servers that knew no kinds."""
    assert data_of(joined(**participant))["kind"] == "agent"


@pytest.mark.parametrize("permission", [{}, {"agent": False}, {"agent": "yes"}, {"recorder": True}])
def test_a_participant_without_an_agents_permission_is_none(permission: dict[str, Any]) -> None:
    """R16: STANDARD is left out on the wire, and so is a permission that is not given."""
    assert data_of(joined(permission=permission))["kind"] == "participant"


@pytest.mark.parametrize(
    ("payload", "identity"),
    [
        (joined(), "3 characters"),
        (joined(kind="AGENT"), "3 characters"),
        (joined(kind="BRIDGE"), "3 characters"),
        (webhook("agent_job_started", job={"id": "AJ_1", "state": {"participantIdentity": "bo"}}), "2 characters"),
        (ingress("ingress_started", participantIdentity="cam"), "3 characters"),
        (joined(identity=""), None),
        (joined(kind="SIP"), None),
        (joined(kind="CONNECTOR"), None),
        (joined(kind="HOLOGRAM"), None),
        (joined(identity="sip_+15105550100"), None),
    ],
)
def test_an_identity_passes_as_the_project_wants_it_and_a_callers_never(
    payload: dict[str, Any], identity: str | None
) -> None:
    """Identities of agents and of imports too; of a kind that may be a phone's, none."""
    (document,) = canonical(payload, "acme", policy=_Hashed())
    assert document["data"].get("identity") == identity


def test_a_label_that_is_unfit_does_not_cost_the_event() -> None:
    """R21: an identity may be anything at LiveKit; what the core would refuse is left out."""
    assert "identity" not in data_of(joined(identity="a\nb"))
    assert "identity" not in data_of(joined(identity="a" * 257))
