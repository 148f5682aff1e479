"""Who may talk to whom: the cluster's CA, host certificates, join tokens, TLS contexts, Unix sockets.

    module         holds
    files          private files, written whole or not at all
    certificates   CA and host certificates: make, issue from a request, renew
    tls            TLS contexts of servers and clients; the name of a connected peer
    token          join tokens: mint, parse, judge
    local          Unix sockets whose file mode says who may connect

Why it is so, and what it costs: `docs/adr/0003-trust.md`.
"""
