from cloudcrest.gateway.request_id import RequestIds
from cloudcrest.kernel.ids import encode_ulid


def test_an_id_is_a_ulid_of_its_time() -> None:
    ids = RequestIds(lambda count: bytes([255]) * count)
    assert ids.make(1_741_569_952.123) == "req_" + encode_ulid(1_741_569_952_123, 2**80 - 1)


def test_ids_sort_by_time_over_every_carry() -> None:
    ids = RequestIds()
    made = [ids.make(1_741_569_952 + step / 1000) for step in range(0, 3_000, 7)]
    assert made == sorted(made)


def test_every_id_has_random_bytes_of_its_own() -> None:
    asked: list[int] = []

    def zeros(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    ids = RequestIds(zeros)
    for _ in range(1_000):
        ids.make(0)
    assert sum(asked) >= 1_000 * 16, "a byte for each random character"


def test_a_thousand_ids_of_one_moment_differ() -> None:
    ids = RequestIds()
    assert len({ids.make(1.0) for _ in range(1_000)}) == 1_000
