"""The private network of members, without one: addresses, which packets pass, streams of them, who may reach whom."""

import ipaddress
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.compute.jobs.entry import Entry, MemberEntry
from cloudcrest.compute.jobs.gang.packets import (
    MEMBERS_MOST,
    MTU_BYTES,
    PREFIX_BITS,
    address_of,
    cut,
    destination_of,
    number_of,
)
from cloudcrest.compute.jobs.gang.reach import reach_of
from cloudcrest.compute.jobs.launch import Launcher
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import Gang, MemberNetwork, RunnerPlace
from tests.support.job_region import job

OWN, OTHER, THIRD = (number_of(member) for member in range(3))


def packet(payload: bytes = b"", source: int = OTHER, destination: int = OWN, kind: int = 0x45) -> bytes:
    return struct.pack(">BBHIIII", kind, 0, 20 + len(payload), 0, 0, source, destination) + payload


def test_every_member_has_an_address_of_its_own_in_one_network() -> None:
    addresses = [ipaddress.ip_address(address_of(member)) for member in range(MEMBERS_MOST)]
    assert str(addresses[0]) == "10.77.0.1"
    assert len(set(addresses)) == MEMBERS_MOST
    network = ipaddress.ip_network(f"10.77.0.0/{PREFIX_BITS}")
    assert set(addresses) < {*network} - {network.network_address, network.broadcast_address}
    assert [int(address) for address in addresses] == [number_of(member) for member in range(MEMBERS_MOST)]
    for member in (-1, MEMBERS_MOST):
        with pytest.raises(ValueError, match="no member"):
            address_of(member)


def test_only_a_whole_packet_from_its_own_source_leaves() -> None:
    sent = packet(b"data", OWN, OTHER)
    assert destination_of(sent, 0, len(sent), OWN) == OTHER
    assert destination_of(b"xx" + sent, 2, 2 + len(sent), OWN) == OTHER
    assert destination_of(sent, 0, len(sent), THIRD) == 0
    for broken in (b"", sent[:19], sent[:-1], sent + b"x", packet(b"data", OWN, OTHER, 0x60), b"\x46" + sent[1:]):
        assert destination_of(broken, 0, len(broken), OWN) == 0


def test_packets_of_others_and_for_others_are_left_out() -> None:
    good, forged, strayed = packet(b"a"), packet(b"b", source=THIRD), packet(b"c", destination=THIRD)
    stream = forged + good + strayed + good[:-1]
    found, used = cut(stream, len(stream), OTHER, OWN)
    assert [stream[begin:end] for begin, end in found] == [good]
    assert stream[used:] == good[:-1]


@pytest.mark.parametrize("head", [packet(kind=0x65), packet(kind=0x46), b"\0" * 20, b"\x45\0\0\x13" + b"\0" * 16])
def test_a_stream_that_has_gone_astray_is_given_up(head: bytes) -> None:
    stream = packet(b"fine") + head
    with pytest.raises(ValueError, match="no packet"):
        cut(stream, len(stream), OTHER, OWN)


@given(
    st.lists(st.tuples(st.binary(max_size=80), st.sampled_from([OWN, OTHER, THIRD]))),
    st.lists(st.integers(1, 200), min_size=1),
)
def test_a_stream_gives_the_same_packets_however_it_comes(sent: list[tuple[bytes, int]], sizes: list[int]) -> None:
    packets = [packet(payload, source) for payload, source in sent]
    stream = b"".join(packets)
    came, buffer, turn = [], b"", 0
    while stream:
        size, turn = sizes[turn % len(sizes)], turn + 1
        buffer, stream = buffer + stream[:size], stream[size:]
        found, used = cut(buffer, len(buffer), OTHER, OWN)
        came += [buffer[begin:end] for begin, end in found]
        buffer = buffer[used:]
    assert buffer == b""
    assert came == [each for each, (_, source) in zip(packets, sent, strict=True) if source == OTHER]


@given(st.binary(max_size=200))
def test_whatever_comes_it_ends_in_packets_or_an_error(stream: bytes) -> None:
    try:
        found, used = cut(stream, len(stream), OTHER, OWN)
    except ValueError:
        return
    assert used <= len(stream)
    assert all(0 <= begin < end <= used and end - begin <= MTU_BYTES for begin, end in found)


def test_members_reach_each_other_where_all_are_alike() -> None:
    private, node, none = MemberNetwork("private", 20_001), MemberNetwork(), MemberNetwork("none", problem="no device")
    assert reach_of([private, private]) == ("private", "")
    assert reach_of([node, node]) == ("node", "")
    assert reach_of([none]) == ("node", "")
    assert reach_of([private, none]) == (
        "none",
        "its members cannot connect to each other: member 1: no device",
    )
    assert reach_of([private, node])[0] == "none"
    assert "some are held" in reach_of([private, node])[1]


def gang(*networks: MemberNetwork, **changes: Any) -> Entry:
    members = [
        MemberEntry(f"job_1-2-{number}", "n1", (), address=f"192.0.2.{number}", network=network)
        for number, network in enumerate(networks)
    ]
    return Entry(job(("true",), **changes), 0.0, attempt=2, members=members)


def launcher(folder: Path, secret: str = "") -> Launcher:
    return Launcher(folder / "work", folder / "shared", RunSettings(), secret, lambda sealed, _: sealed)


def test_members_are_told_their_addresses_and_where_the_others_runners_are(tmp_path: Path) -> None:
    entry = gang(MemberNetwork("private", 20_001), MemberNetwork("private", 20_002))
    first, second = (launcher(tmp_path).go(entry, number) for number in range(2))
    assert first.gang is not None
    assert first.gang == second.gang
    assert first.gang.runners == (RunnerPlace("192.0.2.0", 20_001), RunnerPlace("192.0.2.1", 20_002))
    assert second.environment["CLOUDCREST_PEERS"] == "10.77.0.1,10.77.0.2"
    assert second.environment["CLOUDCREST_ADDRESS"] == "10.77.0.2"
    assert second.environment["GLOO_SOCKET_IFNAME"] == second.environment["NCCL_SOCKET_IFNAME"] == "gang0"
    assert launcher(tmp_path).runner(entry, 0).members == 2


def test_a_key_is_of_one_attempt_of_one_region(tmp_path: Path) -> None:
    def key(entry: Entry, secret: str = "") -> str:
        told = launcher(tmp_path, secret).go(entry, 0).gang
        assert isinstance(told, Gang)
        return told.key

    networks = [MemberNetwork("private", 20_001)] * 2
    other, later = gang(*networks), gang(*networks)
    other.document = job(("true",), "job_2")
    later.attempt = 3
    keys = {key(gang(*networks)), key(other), key(later), key(gang(*networks), "another")}
    assert len(keys) == 4
    assert key(gang(*networks)) in keys


def test_a_jobs_own_interface_holds(tmp_path: Path) -> None:
    networks = [MemberNetwork("private", 20_001)] * 2
    environment = launcher(tmp_path).go(gang(*networks, environment={"NCCL_SOCKET_IFNAME": "lo"}), 0).environment
    assert "NCCL_SOCKET_IFNAME" not in environment
    assert environment["GLOO_SOCKET_IFNAME"] == "gang0"


def test_members_without_a_network_of_their_own_are_told_their_nodes(tmp_path: Path) -> None:
    told = launcher(tmp_path).go(gang(MemberNetwork(), MemberNetwork()), 1)
    assert told.gang is None
    assert told.environment["CLOUDCREST_PEERS"] == "192.0.2.0,192.0.2.1"
    assert told.environment["CLOUDCREST_ADDRESS"] == "192.0.2.1"
    cannot = launcher(tmp_path).go(gang(MemberNetwork("private", 1), MemberNetwork("none", problem="no device")), 0)
    assert cannot.gang is None
    assert "member 1: no device" in cannot.detail
    assert "CLOUDCREST_ADDRESS" not in cannot.environment
    alone = launcher(tmp_path).go(gang(MemberNetwork()), 0)
    assert (alone.gang, alone.detail, alone.environment["CLOUDCREST_PEERS"]) == (None, "", "192.0.2.0")
    assert "CLOUDCREST_ADDRESS" not in alone.environment
