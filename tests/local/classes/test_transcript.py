"""The local store's classes answer as a Ceph OSD did, call by call, and leave the same keys behind."""

import contextlib

import pytest
from local.classes.class_calls import CALLS, Step, changes, comparable_output, comparable_state, read_transcript
from local.classes.memory import MemoryObject

from rbdfs.errors import RbdfsError
from rbdfs.local.classes.registry import CLASSES
from rbdfs.rados.ops import WriteFull


def run(target: MemoryObject, step: Step) -> tuple[int, bytes | None]:
    """The step's result and, of a reading method, its output; a failed step changes nothing."""
    if isinstance(step, WriteFull):
        target.write_full(bytes(step.data))
        return 0, None
    method = CLASSES[step.class_name][step.method]
    before = target.state()
    try:
        output = method.run(target, bytes(step.argument))
    except RbdfsError as err:
        target.restore(before)
        return -err.errno, None
    return 0, None if method.writes else output


def test_every_call_answers_and_stores_what_an_osd_did() -> None:
    objects: dict[str, MemoryObject] = {}
    transcript = read_transcript()
    assert len(transcript) == len(CALLS)
    for number, ((name, step), recorded) in enumerate(zip(CALLS, transcript, strict=True)):
        target = objects.setdefault(name, MemoryObject(name))
        before = target.state()
        result, output = run(target, step)
        answer: dict[str, object] = {"result": result}
        if output is not None:
            answer["output"] = comparable_output(step, output)
        if changed := changes(comparable_state(*before), comparable_state(*target.state())):
            answer["changes"] = changed
        assert answer == recorded, f"call {number}: {name}: {step}"


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_method_is_among_the_calls(class_name: str) -> None:
    called = {step.method for _, step in CALLS if not isinstance(step, WriteFull) and step.class_name == class_name}
    assert set(CLASSES[class_name]) - called == set()


def test_every_method_refuses_an_argument_that_is_cut_short() -> None:
    """At every byte, and with bytes changed: an error of ours, or an answer; never another exception."""
    for name, step in CALLS:
        if isinstance(step, WriteFull) or not len(step.argument) or len(step.argument) > 300:
            continue
        method = CLASSES[step.class_name][step.method]
        for end in range(len(step.argument)):
            for argument in (step.argument[:end], step.argument[:end] + b"\xff" + step.argument[end + 1 :]):
                target = MemoryObject(name)
                target.create(False)
                with contextlib.suppress(RbdfsError):
                    method.run(target, bytes(argument))
