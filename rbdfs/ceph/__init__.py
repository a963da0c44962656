"""A native client of Ceph: monitors, OSDs and their protocols, as `rados.api`. Nothing of Ceph's is needed.

    config          ceph.conf, keyrings, flags: where the cluster is and who we are
    cephx, msgr2    who we are, proven; authenticated connections
    monitor         the session with the monitors: maps, commands, tickets
    osdmap, crush, placement    the cluster at one epoch; from an object to its OSDs     pure
    maps            messages about the map -> maps
    osd_ops         steps of the contract <-> steps of an OSD                            pure
    op_message      an op on the wire, from cached parts; its reply                      pure
    messages        all other messages                                                   pure
    pending         an op under way; the object it is for
    session         one OSD: its connection, and the ops that wait for its answers
    backoff         what an OSD asked us not to send
    objecter        the life of every op: where it goes, when again, when it waits, how it ends
    linger          watches and notifies
    listing         the objects of a pool
    ioctx, cluster  all of it, as the contract has it

A 4 KiB read, each line one call down, nothing queued between:

    ioctx.submit -> objecter.submit -> pending.make_op -> session.add -> connection.send
    connection.run -> session._on_message -> objecter.on_reply -> the caller's on_complete
"""
