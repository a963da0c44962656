"""What a store must hold: every state since the last flush, so that whatever a crash leaves can be judged."""

import copy
from dataclasses import dataclass, field


@dataclass
class Thing:
    """An object: its bytes and its omap; `is_ordered` where its bytes are only changed together with the omap."""

    data: bytearray = field(default_factory=bytearray)
    omap: dict[str, bytes] = field(default_factory=dict)
    is_ordered: bool = False

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def zero(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.data))
        if offset < end:
            self.data[offset:end] = bytes(end - offset)


Things = dict[str, Thing]


class History:
    """The objects after every op since the last flush, oldest first; and what snapshots must show."""

    def __init__(self) -> None:
        self.states: list[Things] = [{}]
        self.snaps: dict[int, Things] = {}

    @property
    def now(self) -> Things:
        return self.states[-1]

    def step(self) -> Things:
        """Another state, to be changed by the op under way."""
        self.states.append(copy.deepcopy(self.now))
        return self.now

    def flushed(self, state: Things | None = None) -> None:
        """What was before a state (before now, where none is given) does not count any more."""
        first = next(index for index, each in enumerate(self.states) if each is (state or self.now))
        del self.states[:first]

    def explains(self, found: Things) -> str:
        """Empty where `found` may be there after a crash, else why not.

        Names, sizes and omaps must be those of one state, all together. A byte may be what it was in any state: bytes
        overwritten in place are not ordered among each other.
        """
        reasons = []
        for index, state in enumerate(self.states):
            reason = self._differs(state, found)
            if not reason:
                return ""
            reasons.append(f"state {index} of {len(self.states)}: {reason}")
        return "; ".join(reasons)

    def _differs(self, state: Things, found: Things) -> str:
        if state.keys() != found.keys():
            return f"objects {sorted(found)} instead of {sorted(state)}"
        for name, thing in state.items():
            if found[name].omap != thing.omap:
                return f"{name}: omap {found[name].omap} instead of {thing.omap}"
            if len(found[name].data) != len(thing.data):
                return f"{name}: size {len(found[name].data)} instead of {len(thing.data)}"
            if thing.is_ordered and found[name].data != thing.data:
                return f"{name}: its bytes are not of the same op as its omap"
            if found[name].data != thing.data and (offset := self._strange_byte(name, found[name].data)) is not None:
                return f"{name}: byte {offset} never had that value"
        return ""

    def _strange_byte(self, name: str, data: bytearray) -> int | None:
        versions = [state[name].data.ljust(len(data), b"\0") for state in self.states if name in state]
        for start in range(0, len(data), 512):
            part = data[start : start + 512]
            if any(version[start : start + 512] == part for version in versions):
                continue
            for offset in range(start, start + len(part)):
                if all(version[offset] != data[offset] for version in versions):
                    return offset
        return None
