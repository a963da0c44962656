"""Messenger 2.1: one authenticated connection to a monitor, an OSD or a manager.

    frames, secure      bytes <-> frames, with checksums or AES-GCM                 pure
    handshake, login    from the banner to SERVER_IDENT; what authenticates         pure
    features            the feature bits that we announce, and keep
    connection          the same on a trio socket: open, send, receive
    outbox              what one turn of the event loop sends leaves in one system call
    buffers             large data is received once, and not copied

What its users (the monitor client and the objecter) need:

    identity = Identity()                       one per client: the nonce by which the cluster knows this instance
    connection = await Connection.open(addr, EntityType.OSD, login, identity, modes=(Mode.CRC, Mode.SECURE))
        `login` is a cephx (or no) authentication: `credentials.monitor_login(...)` or `.service_login(...)`
        raises ConnectionLost (refused, reset, timed out, or the peer broke the protocol), AuthenticationFailed,
        NotSupported (the peer requires a feature that we lack)
    connection.my_addr, .peer_addrs, .peer_id, .peer_features, .global_id, .mode      as the handshake settled them
    connection.send(kind, front, data=(), tid=0, version=1, compat=1, priority=127)
        never waits: what is sent in one turn of the loop leaves at its end, and with a large message at once.
        `front` is one buffer; `data` is a tuple of buffers that must stay unchanged until the message is answered,
        or `connection.copy_unsent()` is called.
        Sending on a connection that is lost or closed does nothing: the owner of the connection hears of the loss
        and sends again elsewhere.
    await connection.run(on_message)            receive until the connection is lost; always raises ConnectionLost
        on_message(kind, tid, version, front, data) is called inline, must not block, and may send.
        `front` is a memoryview that is valid during the call only; `data` (bytes or memoryview) belongs to the callee.
        An exception out of on_message ends the connection: WireError and ProtocolError as ConnectionLost, others as is.
        Sends keepalives while the connection is idle, and gives up a peer that does not answer them.
    connection.close()                          at once; a `run` under way then raises ConnectionLost

So a session is one coroutine: open, send what is pending, run, and start over when ConnectionLost comes out. Sessions
are lossy: a new connection knows nothing of the last one, whoever needs an answer sends again.
"""
