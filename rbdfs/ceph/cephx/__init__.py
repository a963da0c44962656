"""cephx: proving to the cluster who we are, and what we may do there.

    ciphers         AES-128 and AES256KRB5
    keys            CryptoKey: type and secret, in text and on the wire; the envelope around all that is encrypted
    structures      what travels
    credentials     a client's name, key, global id and tickets; logging in and renewing

    credentials = Credentials("client.admin", key, os.urandom)  without a key: only clusters that ask for none
    login = credentials.monitor_login(now)                      to a monitor: gives tickets and a global id
    login = credentials.service_login(EntityType.OSD, now)      to an OSD or manager; AuthenticationFailed: no ticket
    credentials.global_id                                       0 before the first login; kept by later ones
    credentials.renew_at, .login_again_at   when to renew (below), when to open a new monitor session; math.inf: never
    connection.send(17, credentials.renewal_request(now))       over the live monitor session (MAuth)
    credentials.on_renewal_reply(front, now)                    its reply, type 18 (MAuthReply)
    credentials.forget_tickets()                                after a monitor refused a login: start anew next time

`now` is a monotonic time in seconds, the caller's: trio.current_time(). All of this is pure but for `os.urandom`, which
comes in as an argument.
"""
