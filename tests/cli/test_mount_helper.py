"""What mount(8) asks of its helper, for a line of fstab."""

import pytest

from rbdfs.cli.main import parse
from rbdfs.cli.mount_helper import arguments_of_mount_helper
from rbdfs.cli.mount_options import parse_mount_options
from rbdfs.cli.options import connect_flags
from rbdfs.errors import InvalidArgument


def test_line_of_fstab_becomes_a_command_line() -> None:
    options = "rw,_netdev,allow_other,conf=/etc/ceph/a.conf,id=me,x-systemd.automount"
    argv = arguments_of_mount_helper(["data/ns", "/mnt", "-s", "-v", "-o", options, "-t", "fuse.rbdfs"])
    assert argv is not None
    arguments = parse(argv)
    assert (arguments.command, arguments.source, arguments.mountpoint) == ("mount", "data/ns", "/mnt")
    assert arguments.verbose
    assert parse_mount_options(arguments.options, arguments).allow_other
    flags = connect_flags(arguments)
    assert (flags.conf, flags.id, flags.store) == ("/etc/ceph/a.conf", "me", None)


def test_pretended_mount_does_nothing() -> None:
    assert arguments_of_mount_helper(["data", "/mnt", "-f", "-o", "rw"]) is None


def test_options_may_be_given_more_than_once_and_the_last_one_counts() -> None:
    arguments = parse(["mount", "data", "/mnt", "-o", "ro,uid=5", "-o", "rw,entry-timeout=0.5"])
    options = parse_mount_options(arguments.options, arguments)
    assert (options.read_only, options.uid, options.entry_timeout) == (False, 5, 0.5)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("bogus", "unknown"),
        ("uid", "uid needs a value"),
        ("conf", "conf needs a value"),
        ("ro=1", "ro takes no value"),
        ("remount", "cannot be changed"),
        ("uid=", "not valid"),
        ("image=", "not valid"),
        ("order=99", "not valid"),
        ("umask=999", "not valid"),
        ("attr_timeout=inf", "not valid"),
        ("read_ahead=-5", "not valid"),
    ],
)
def test_option_that_makes_no_sense_is_refused_by_name(option: str, why: str) -> None:
    arguments = parse(["mount", "data", "/mnt", "-o", option])
    with pytest.raises(InvalidArgument, match=f"-o {option}: .*{why}"):
        parse_mount_options(arguments.options, arguments)
