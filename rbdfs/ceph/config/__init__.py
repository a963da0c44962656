"""How a client finds its cluster and its key: ceph.conf, keyrings, flags and environment, as Ceph's tools read them.

conffile      ceph.conf: sections, keys, values; a bad line is named
settings      one client's view of it: its own section before its type's before [global], `$name` expanded
keyring       the key of a client
monhost       where the monitors are, in all forms that `mon host` has
options       all of it together: `load(flags)` gives a `ConnectOptions`
"""

from rbdfs.ceph.config.options import ConnectOptions, Flags, load, names_cluster
from rbdfs.ceph.config.settings import Settings

__all__ = ["ConnectOptions", "Flags", "Settings", "load", "names_cluster"]
