"""Ids: 16 bytes, text at the surface; derived ones stay in the order of time and give their source back."""

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksi.core import ids
from ksi.core.errors import ValidationError

YEAR_2248_MS = 1 << 43
times = st.integers(0, YEAR_2248_MS - 1)
parts = st.one_of(st.text(max_size=8), st.integers())


@st.composite
def bases(draw: st.DrawFn, versions: tuple[int, ...] = (7, 8)) -> bytes:
    raw = bytearray(draw(times).to_bytes(6, "big") + draw(st.binary(min_size=10, max_size=10)))
    raw[6] = draw(st.sampled_from(versions)) << 4 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


def test_new_ids_are_uuids_of_version_7_in_the_order_of_their_making() -> None:
    made = [ids.new_id() for _ in range(1000)]
    assert all(UUID(bytes=raw).version == 7 for raw in made)
    assert all(one < other for one, other in pairwise(made))
    assert all(ids.has_room(raw) for raw in made)


@given(st.uuids())
def test_every_form_of_an_id_is_the_same_bytes(uuid: UUID) -> None:
    assert ids.text(uuid.bytes) == str(uuid)
    forms = (uuid, str(uuid), str(uuid).upper(), uuid.hex, uuid.bytes)
    assert {ids.parse(form) for form in forms} == {uuid.bytes}


@pytest.mark.parametrize("wrong", ["", "7f3a", b"short", b"x" * 17, "g" * 32, "0" * 31])
def test_what_is_no_uuid_is_refused(wrong: str | bytes) -> None:
    with pytest.raises(ValidationError, match="no event id"):
        ids.parse(wrong)


@given(bases(), st.integers(1, ids.ENTRIES_MAX))
def test_the_nth_id_gives_base_and_ordinal_back(base: bytes, k: int) -> None:
    assert ids.has_room(base)
    assert ids.base_of(ids.nth_of(base, k)) == (base, k)


@given(bases())
def test_the_nth_ids_of_a_base_differ_from_each_other_and_from_it(base: bytes) -> None:
    assert len({base, *(ids.nth_of(base, k) for k in range(1, ids.ENTRIES_MAX + 1))}) == ids.ENTRIES_MAX + 1


@given(bases())
def test_a_base_is_not_taken_for_a_derived_id(base: bytes) -> None:
    assert ids.base_of(base) is None


@given(st.uuids(version=4))
def test_an_id_of_another_version_is_never_taken_for_a_derived_one(uuid: UUID) -> None:
    assert ids.base_of(uuid.bytes) is None
    assert not ids.has_room(uuid.bytes)


@given(bases(versions=(7,)))
def test_bases_of_both_versions_do_not_meet(base: bytes) -> None:
    other = bytearray(base)
    other[6] += 0x10
    nths = [{ids.nth_of(raw, k) for k in range(1, 32)} for raw in (base, bytes(other))]
    assert nths[0].isdisjoint(nths[1])


@given(bases(), st.lists(parts, max_size=4))
def test_a_derived_id_is_a_uuid_of_version_8_with_the_time_of_its_source(base: bytes, path: list[object]) -> None:
    made = ids.derived(base, *path)
    uuid = UUID(bytes=made)
    assert (uuid.version, uuid.variant) == (8, UUID(bytes=base).variant)
    assert made[:6] == base[:6]
    assert made == ids.derived(base, *path)
    assert ids.has_room(made)


@given(bases(), st.lists(parts, max_size=4), st.lists(parts, max_size=4))
def test_other_paths_give_other_ids(base: bytes, one: list[object], other: list[object]) -> None:
    if list(map(str, one)) != list(map(str, other)):
        assert ids.derived(base, *one) != ids.derived(base, *other)


def test_a_derived_id_never_changes() -> None:
    source = UUID("0190163d-8694-739b-aea5-966c26f8ad91").bytes
    assert ids.text(ids.derived(source, "state:set", 1)) == "0190163d-8694-83e6-8303-b8db3be2cfc4"
