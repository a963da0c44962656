"""CRUSH against crushtool: recorded mappings of random maps, and fresh ones where crushtool is installed."""

import contextlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ceph import crush_maps
from ceph.archives import cut, damaged, members, pairs

from rbdfs.ceph.crush.hash import LOG_COSTS, hash2, hash3, hash4
from rbdfs.ceph.crush.map import Algorithm, Bucket, CrushMap, Op, Rule, Step
from rbdfs.ceph.crush.rules import evaluate
from rbdfs.errors import NotSupported, WireError


def check(crush: CrushMap, weights: list[int], mappings: dict[tuple[int, int, int], list[int]]) -> None:
    args = crush.choose_args_for(0)
    wrong = {
        key: (devices, got)
        for key, devices in mappings.items()
        if (got := evaluate(crush, key[0], key[2], key[1], weights, args)) != devices
    }
    assert not wrong


@pytest.mark.parametrize(
    ("name", "data", "expected"), pairs("crush", ".crush"), ids=lambda value: value if type(value) is str else ""
)
def test_mappings_are_those_of_crushtool(name: str, data: bytes, expected: dict) -> None:
    mappings = {(rule, size, x): devices for rule, size, x, *devices in expected["mappings"]}
    assert len(mappings) > 50
    check(CrushMap.from_bytes(data), expected["weights"], mappings)


def test_recorded_maps_have_every_algorithm_and_kind_of_rule() -> None:
    maps = [CrushMap.from_bytes(data) for _, data, _ in pairs("crush", ".crush")]
    assert {bucket.algorithm for crush in maps for bucket in crush.buckets.values()} == set(Algorithm)
    ops = {step.op for crush in maps for rule in crush.rules.values() for step in rule.steps}
    assert ops == set(Op) - {Op.NOOP}
    assert {rule.type for crush in maps for rule in crush.rules.values()} == {1, 3, 4, 5}
    assert any(args for crush in maps for args in crush.choose_args.values())
    assert any(crush.class_names for crush in maps)


@pytest.mark.skipif(shutil.which("crushtool") is None, reason="no crushtool here: apt install ceph-base")
def test_mappings_of_fresh_maps_are_those_of_crushtool(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for seed in range(round(time.time()), round(time.time()) + 4):
        data, weights = crush_maps.compile_map(run, tmp_path, seed)
        expected = crush_maps.mappings(run, tmp_path, data, weights, 8)
        check(CrushMap.from_bytes(data), weights, expected.devices)


def test_hashes_take_negative_ids_as_32_bits() -> None:
    assert hash2(5, -3) == hash2(5, 0xFFFFFFFD)
    assert hash3(5, -3, 7) == hash3(5, 0xFFFFFFFD, 7)
    assert hash4(5, -3, 7, -1) == hash4(5, 0xFFFFFFFD, 7, 0xFFFFFFFF)


def test_logarithm_falls_short_of_nothing_and_ends_near_zero() -> None:
    assert LOG_COSTS[0] == 2**48
    assert LOG_COSTS[0x7FFF] == 2**44  # one bit less than all of them
    assert 0 < LOG_COSTS[0xFFFF] < 2**44


def test_all_weights_zero_gives_the_first_item() -> None:
    bucket = Bucket(-1, 1, Algorithm.STRAW2, 0, (3, 4), (0, 0))
    crush = CrushMap(5, {-1: bucket}, {0: Rule(1, (Step(Op.TAKE, -1), Step(Op.CHOOSE_INDEP, 1, 0), Step(Op.EMIT)))})
    assert evaluate(crush, 0, 99, 1, [0x10000] * 5) == [3]


def test_a_rule_that_does_not_exist_gives_nothing() -> None:
    assert evaluate(CrushMap(0, {}, {}), 7, 0, 3, []) == []


def test_a_step_of_a_later_release_is_refused_by_number() -> None:
    crush = CrushMap(1, {}, {3: Rule(1, (Step(Op.TAKE, 0), Step(17), Step(Op.EMIT)))})
    with pytest.raises(NotSupported, match="rule 3: step 17"):
        evaluate(crush, 3, 0, 3, [0x10000])


def test_a_bucket_inside_itself_is_refused() -> None:
    crush = CrushMap.from_bytes(members("crush")["0.crush"])
    raw = bytearray(members("crush")["0.crush"])
    root = min(id_ for id_, bucket in crush.buckets.items() if any(item < 0 for item in bucket.items))
    child = crush.buckets[root].items[0]
    place = raw.index(child.to_bytes(4, "little", signed=True), raw.index(root.to_bytes(4, "little", signed=True)))
    raw[place : place + 4] = root.to_bytes(4, "little", signed=True)
    with pytest.raises(WireError, match="inside itself"):
        CrushMap.from_bytes(raw)


@pytest.mark.parametrize("name", ["0.crush", "107.crush"])
def test_a_cut_map_decodes_without_its_tail_or_is_refused(name: str) -> None:
    for part in cut(members("crush")[name]):
        with contextlib.suppress(WireError):
            CrushMap.from_bytes(part)


@pytest.mark.parametrize("name", ["0.crush", "107.crush"])
def test_a_damaged_map_is_refused_or_evaluated_without_harm(name: str) -> None:
    for bad in damaged(members("crush")[name], 60):
        try:
            crush = CrushMap.from_bytes(bad)
        except WireError:
            continue
        if max(crush.tunables.choose_total_tries, crush.tunables.msr_descents) > 1000:
            continue  # is to try long
        for number, rule in crush.rules.items():
            if all(abs(step.arg1) < 100 for step in rule.steps if step.op != Op.TAKE):
                with contextlib.suppress(NotSupported):
                    evaluate(crush, number, 1, 3, [0x10000] * 20)
