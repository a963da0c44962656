"""CRUSH maps made at random, as text that `crushtool` compiles, and what `crushtool` says of them."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Run = Callable[..., str]  # runs a tool, gives its output

ALGORITHMS = ("uniform", "list", "tree", "straw", "straw2")
TYPES = ("osd", "host", "rack", "root")
# choose_local_tries, choose_local_fallback_tries, choose_total_tries, descend_once, vary_r, stable, straw_calc_version
TUNABLES = {
    "argonaut": (2, 5, 19, 0, 0, 0, 0),
    "bobtail": (0, 0, 50, 1, 0, 0, 0),
    "firefly": (0, 0, 50, 1, 1, 0, 0),
    "hammer": (0, 0, 50, 1, 1, 0, 1),
    "hammer with vary_r 4": (0, 0, 50, 1, 4, 0, 1),
    "jewel": (0, 0, 50, 1, 1, 1, 1),
    "local tries": (3, 0, 30, 0, 2, 1, 1),
    "local fallback": (1, 2, 10, 1, 0, 1, 1),
    "few tries": (0, 0, 3, 1, 1, 1, 1),
}
_TUNABLE_NAMES = (
    "choose_local_tries",
    "choose_local_fallback_tries",
    "choose_total_tries",
    "chooseleaf_descend_once",
    "chooseleaf_vary_r",
    "chooseleaf_stable",
    "straw_calc_version",
)


@dataclass
class Mappings:
    """What a map gives: rule, result size and input -> devices, for these weights of devices."""

    weights: list[int]
    devices: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)


class Generator:
    """Random maps; the same seed gives the same map."""

    def __init__(self, seed: int, *, msr: bool = False) -> None:
        self._random = random.Random(f"crush {seed}")
        self._msr = msr
        self._next_id = -1
        self._lines: list[str] = []
        self._items: dict[str, tuple[int, list[str]]] = {}  # bucket -> id, items; straw2 ones only
        self._has_classes = False
        self.devices = 0

    def text(self) -> str:
        """The map, as crushtool reads it."""
        rng = self._random
        profile = rng.choice(sorted(TUNABLES))
        self._lines = [f"# tunables: {profile}"]
        self._lines += [f"tunable {n} {v}" for n, v in zip(_TUNABLE_NAMES, TUNABLES[profile], strict=True)]
        self._lines.append("tunable allowed_bucket_algs 62")
        hosts = [rng.randint(1, 5) for _ in range(rng.randint(2, 7))]
        self.devices = sum(hosts)
        classes = [rng.choice(("hdd", "ssd")) for _ in range(self.devices)]
        classes[0] = "hdd"
        self._has_classes = rng.random() < 0.6
        self._lines += [
            f"device {number} osd.{number}" + (f" class {name}" if self._has_classes else "")
            for number, name in enumerate(classes)
        ]
        self._lines += [f"type {number} {name}" for number, name in enumerate(TYPES)]
        self._tree(hosts)
        self._rules()
        if rng.random() < 0.4:
            self._choose_args()
        return "\n".join(self._lines) + "\n"

    def weights(self) -> list[int]:
        """Weights of the devices: some out, some partly."""
        return [
            self._random.choice((0x10000, 0x10000, 0x10000, 0x10000, 0x8000, 0x4000, 0)) for _ in range(self.devices)
        ]

    def _tree(self, hosts: Sequence[int]) -> None:
        rng = self._random
        osds = iter(range(self.devices))
        weighted = [
            (f"host{i}", self._bucket("host", f"host{i}", [(f"osd.{next(osds)}", self._weight()) for _ in range(n)]))
            for i, n in enumerate(hosts)
        ]
        if rng.random() < 0.5:
            half = len(weighted) // 2
            parts = [part for part in (weighted[:half], weighted[half:]) if part]
            weighted = [(f"rack{i}", self._bucket("rack", f"rack{i}", part)) for i, part in enumerate(parts)]
        self._bucket("root", "default", weighted)

    def _weight(self) -> int:
        return self._random.choice((0, 0x4000, 0x8000, 0x10000, 0x10000, 0x18000, 0x3A2F1))

    def _bucket(self, kind: str, name: str, items: list[tuple[str, int]]) -> int:
        algorithm = self._random.choice((*ALGORITHMS, "straw2", "straw2"))
        if algorithm in ("uniform", "tree") and self._has_classes:
            algorithm = "straw2"  # crushtool cannot make a uniform shadow, and leaves node weights of a tree undefined
        if algorithm == "uniform":
            items = [(item, 0x10000) for item, _ in items]
        self._lines.append(f"{kind} {name} {{\n\tid {self._next_id}\n\talg {algorithm}\n\thash 0")
        self._lines += [f"\titem {item} weight {weight / 0x10000:.5f}" for item, weight in items]
        self._lines.append("}")
        if algorithm == "straw2":
            self._items[name] = self._next_id, [item for item, _ in items]
        self._next_id -= 1
        return sum(weight for _, weight in items)

    def _rules(self) -> None:
        rng = self._random
        steps: list[list[str]] = [
            ["take default", "chooseleaf firstn 0 type host"],
            ["set_chooseleaf_tries 5", "set_choose_tries 100", "take default", "chooseleaf indep 0 type host"],
            ["take default", f"choose {rng.choice(('firstn', 'indep'))} 0 type osd"],
            [
                "take default" + " class hdd" * self._has_classes,
                f"chooseleaf {rng.choice(('firstn', 'indep'))} 0 type {rng.choice(TYPES[:2])}",
            ],
            [
                "take default",
                f"choose {rng.choice(('firstn', 'indep'))} {rng.choice((2, 3))} type host",
                f"chooseleaf {rng.choice(('firstn', 'indep'))} {rng.choice((0, 1, 2, -1))} type osd",
            ],
            ["take host0", "choose firstn 1 type osd", "emit", "take default", "chooseleaf firstn -1 type host"],
            [
                f"set_choose_local_tries {rng.choice((0, 1, 2))}",
                f"set_choose_local_fallback_tries {rng.choice((0, 0, 1, 3))}",
                f"set_chooseleaf_vary_r {rng.choice((0, 1, 2))}",
                f"set_chooseleaf_stable {rng.choice((0, 1))}",
                "take default",
                "chooseleaf firstn 0 type host",
            ],
        ]
        for number, rule in enumerate(steps):
            self._rule(number, "replicated" if "firstn" in rule[-1] else "erasure", rule)
        if self._msr:
            config = rng.choice(([], ["set_msr_descents 7"], ["set_msr_descents 3", "set_msr_collision_tries 4"]))
            choices = ["take default", f"choosemsr {rng.choice((0, 2, 3, 4))} type host"]
            choices.append(f"choosemsr {rng.choice((1, 2, 3))} type osd")
            self._rule(len(steps), "msr_indep", [*config, *choices])
            self._rule(len(steps) + 1, "msr_firstn", [*config, *choices])
            two = [
                "take host0",
                "choosemsr 2 type osd",
                "emit",
                "take default" + " class hdd" * self._has_classes,
                "choosemsr 0 type osd",
            ]
            self._rule(len(steps) + 2, "msr_indep", two)

    def _rule(self, number: int, kind: str, steps: Sequence[str]) -> None:
        self._lines.append(f"rule rule{number} {{\n\tid {number}\n\ttype {kind}")
        if not self._msr:  # newer releases do not know them any more, nor write them
            self._lines.append("\tmin_size 1\n\tmax_size 20")
        self._lines += [f"\tstep {step}" for step in (*steps, "emit")]
        self._lines.append("}")

    def _choose_args(self) -> None:
        rng = self._random
        self._lines.append("choose_args 0 {")
        for id_, items in self._items.values():
            self._lines.append(f"  {{\n    bucket_id {id_}\n    weight_set [")
            for _ in range(rng.choice((1, 1, 3))):
                self._lines.append("      [ " + " ".join(f"{self._weight() / 0x10000:.5f}" for _ in items) + " ]")
            self._lines.append("    ]")
            if rng.random() < 0.3:
                self._lines.append("    ids [ " + " ".join(str(rng.randint(-9999, -1000)) for _ in items) + " ]")
            self._lines.append("  }")
        self._lines.append("}")


def compile_map(run: Run, directory: Path, seed: int, *, msr: bool = False) -> tuple[bytes, list[int]]:
    """A map in binary, with weights for its devices."""
    generator = Generator(seed, msr=msr)
    source, binary = directory / f"crush.{seed}.txt", directory / f"crush.{seed}"
    source.write_text(generator.text())
    run("crushtool", "-c", str(source), "-o", str(binary))
    return binary.read_bytes(), generator.weights()


def mappings(run: Run, directory: Path, crush: bytes, weights: list[int], inputs: int) -> Mappings:
    """What crushtool gives for each rule, for results of 1, 3 and 6 devices."""
    binary = directory / "crush.tested"
    binary.write_bytes(crush)
    options = [word for osd, weight in enumerate(weights) for word in ("--weight", str(osd), str(weight / 0x10000))]
    result = Mappings(weights)
    for size in (1, 3, 6):
        test = ("--test", "--num-rep", str(size), "--min-x", "0", "--max-x", str(inputs - 1), "--show-mappings")
        for line in run("crushtool", "-i", str(binary), *test, *options).splitlines():
            if match := re.fullmatch(r"CRUSH rule (\d+) x (\d+) \[([-\d,]*)\]", line):
                rule, x, devices = match.groups()
                result.devices[int(rule), size, int(x)] = [int(device) for device in devices.split(",") if device]
    return result
