"""HTTP/1.1 and the framed byte pipe, sans-IO: bytes in, values out; no sockets, no Docker daemons, no clocks.

| module | holds |
|---|---|
| `heads` | request and response heads, parsed by llhttp, then held to stricter rules |
| `bodies` | how a body is delimited, and a counter that finds its end without copying it |
| `frames` | u32-length frames: a byte pipe with half-close inside TLS |
"""
