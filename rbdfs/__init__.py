"""RBD images of a pool as files: on a Ceph cluster, spoken to natively, or on a store in a directory."""
