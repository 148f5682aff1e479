"""Hooks on any Docker call: Powerstrip's adapters, chained around the gateway's handler.

| module | what |
|---|---|
| `config` | `adapters.yml` to a checked value |
| `match` | which hooks a call gets |
| `streams` | which bodies hooks may see |
| `protocol` | messages out, answers in |
| `adapters` | the way to adapters |
| `chain` | one call through its hooks: order, failure, undoing |
| `layer` | the configuration from the store, and the wrapper: `HookLayer.wrap(handler)` |
| `stats`, `dryrun` | what people see of it |
| `inner` | the gateway's calls to itself |
"""
