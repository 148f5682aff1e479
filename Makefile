# Two commands matter: `make demo` and `make test`. Both do all their own set-up.
PY := .venv/bin/python
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
.PHONY: setup check test proofs proof soak lab demo bench faults docs conformance matrix chaos clean fuzz scale

setup: .venv/.done ## the virtual environment and the system packages
	@tools/system-packages

.venv/.done: pyproject.toml constraints.txt
	@tools/system-packages
	@tools/make-venv
	@touch $@

check: .venv/.done ## lint, types and the fast tests: no root, seconds
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m pytest -q -m "not lab and not etcd" -n 2

test: setup ## everything: check, then the lab suite on real engines (root)
	@tools/clients
	$(MAKE) check
	$(PY) -m pytest -q -m etcd -n 2 tests/contract
	$(SUDO) $(PY) -m pytest -q -m "lab and not alone" -n 2 --dist loadfile --no-loadscope-reorder --durations 8 tests/lab tests/contract
	$(SUDO) $(PY) -m pytest -q -m "lab and alone" --durations 8 tests/lab

proofs: setup ## the network's promises at length: 100,000 connections, 50 rounds of trouble, 20 moves (root, half an hour)
	$(SUDO) DROVER_NET_CONNECTIONS=100000 DROVER_NET_CHANGES=50 DROVER_NET_ROUNDS=50 DROVER_NET_MOVES=20 \
	    $(PY) -m pytest -q -s -m lab --timeout 3600 tests/lab/test_network_services.py

demo: setup ## a three-host cluster on this machine, told as it happens (root)
	@tools/clients compose
	$(SUDO) .venv/bin/drover lab demo --picture out/demo.svg

lab: setup ## a lab of three hosts, one cluster, to play with (root); `drover lab down` removes it
	$(SUDO) .venv/bin/drover lab up

conformance: setup ## docker-py's own suite on an engine, a one-host and a three-host cluster (root)
	@tools/clients
	$(SUDO) $(PY) -m tests.conformance

matrix: setup ## the lab suite on Docker 20.10, 26.1 and 28, each alone and mixed (root); ARGS: pytest's
	@tools/clients
	$(SUDO) $(PY) -m tests.matrix $(ARGS)

chaos: setup ## random accidents on real hosts and the proof that no promise broke (root); ROUNDS=200 SEED=1 MINUTES=60: it goes on where it stopped
	$(SUDO) $(PY) -m tests.chaos --rounds $(or $(ROUNDS),20) --seed $(or $(SEED),1) --minutes $(or $(MINUTES),600) --docs

fuzz: .venv/.done ## hostile input, new each time, 25 times as much as in `make check` (no root); N=5000: more
	DROVER_FUZZ=$(or $(N),1000) $(PY) -m pytest -q --timeout 3600 tests/fuzz

scale: .venv/.done ## what operations cost as a cluster grows to 250,000 containers: docs/scale.md's figures (no root)
	$(PY) -m bench.scale --out out/bench

docs: .venv/.done ## docs/reference.md, drawn from the code
	$(PY) tools/reference.py

bench: setup ## the budgets, measured (root); QUICK=1: in five minutes
	$(SUDO) $(PY) -m bench $(if $(QUICK),--quick)

faults: setup ## hosts fail under load, ten times each, beside Swarm (root); ROUNDS=3: fewer; it goes on where it stopped
	$(SUDO) $(PY) -m bench.faults $(if $(ROUNDS),--rounds $(ROUNDS))

proof: setup ## a pgbench database moves around under load (root); KILL=1: its host dies
	$(SUDO) $(PY) -m bench.database $(if $(KILL),--kill)

soak: setup ## 200 volumes replicating for ten minutes: memory, lag, and what is left lying about (root); ARGS
	$(SUDO) $(PY) -m bench.soak_volumes $(ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
