"""The adapters that come with Drover; each is a small program: `python -m drover.adapters.policy --config policy.yml`.

They import nothing else of Drover (but errors), so that each is also an example of how to write one.

| module | what |
|---|---|
| `policy` | a safe, limited Docker socket: allow and deny by endpoint, image, mount, privilege, user |
| `env` | put variables and labels into every container |
| `audit` | one JSON line per call: who did what, and what came of it |
| `serve` | what they share: the command line, the server, messages read and answered |
| `docker` | what they share: bodies and paths as the engine understands them |
"""
