# shellcheck shell=bash
# ./dev help

help_command() {
    cat <<'END'
Usage: ./dev <command>

Running Stampede on this machine
  up                   install what is missing (apt), build, start private stores and the four services with fresh
                       data, open a demo sale, follow the logs; Ctrl-C stops everything
     --detach          return when everything is ready
     --keep            with the data of the last time
     --replicas <n>    n processes of each service (1 to 9)
     --release         optimised build, for measuring
     --observe         with Prometheus (rules, alerts) and a collector of traces
  status               each part: process, address, readiness; fails if a part is dead or not ready
  logs [-f] [name...]  the last lines of the logs; -f follows them
  restart [name...]    start a part again on the same data; no name: all that have died
  down                 stop everything; the data stays until the next `up` without --keep

Trying it
  demo [options]       play a flash sale against the running instance, check the books
  load [options]       measure it, open loop: arrivals by the clock, latency from when they were due; ends with the audit,
                       writes .dev/reports/load.json and load.html (use with `up --release`)
     --steps 1000,..   arrivals a second, step by step (1000,2000,5000,10000); --hold-s <s> for each (30)
     --mix <who>       buyers, browsers, bots, sold-out or all
     --find-peak       closed loops with 64, 256 and 1,024 connections; --connections <n> for one of them
     --cores 0,1       holds the system and the tool to these cores; --tool-cores 2,3 the tool to others,
                       --gateway-cores 1 the gateways
     --overload        ten times the peak for 60 s, with a verdict on each promise
     --slowloris <n>   goodput with and without n slow connections
     --help            the rest
  audit [options]      check the books of every sale
  trace                place one order and show its trace, hop by hop (with `up --observe`)
  overhead [rounds]    processor time per order with and without telemetry, in turns (with `up --observe --release`)
  line [options]       play a sale with a waiting room with 10,000 people and 2,000 bots, and check that it was fair;
                       some two minutes, five at most; a report in .dev/reports/line.json

Working on it
  test [arguments]     all tests on real servers of their own; arguments go to cargo test:
                       ./dev test -p stock-service sold_out -- --nocapture
  microbench [name...] what the hot pieces cost by themselves: batcher, envelope, scripts (Redis' CPU by batch size),
                       pipeline (orders a second from a full queue to Postgres)
  bench [options]      ratios on an instance of its own, on two cores: a bare handler, the classic design, our refusal, our
                       order; a report in .dev/reports/bench.json
     --rounds <n>      how many (5), of --round-s <s> (8) for each of the four; --cores 0,1 others than the first two
  chaos [options]      fault campaign: seeded schedules of faults against services and stores of their own, every
                       promise checked; a report in .dev/reports/chaos.json; fails if anything was found
     --schedules <n>   how many (20), from --seed <s> (1) on; one that fails is replayed by its seed
     --crash-points    every crash point of every service, aborting, standing still and failing
     --planted <name>  plants a mistake (all: each of them) and expects it to be noticed
     --help            the rest
  model [options]      explores every state of a model of the protocol, in the large cases: some minutes, gigabytes
     --small           the cases that the tests explore
     --without <guard> one guard taken away: the shortest way to what it keeps from happening
  capacity             how many machines a load takes, from docs/capacity.toml
  fuzz-api [--cases n] requests made from /openapi.json (Schemathesis) against the running instance; fails if an answer
                       is not a documented one
  lint                 formatting, clippy, documentation, licences, shell scripts, manifests, migrations, workflows, alert rules
  autoscale            the autoscalers' metric path on real backlogs: /metrics, Prometheus, the adapter's rule, the replicas;
                       some three minutes
  compose-test         builds the images, brings docker-compose.yml up and plays the storm against it; needs root, or Docker
     --no-build        with the images of the last time
     --base-images <p> program that makes the base images, where they cannot be pulled
  upgrade-test         replaces the last release (deploy/last-release) by this tree under load, in all 24 orders of services
     --count <n>       only the first n orders
  released             writes down what this tree promises as a release: see CONTRIBUTING

Parts: postgres redis rabbitmq stock-service order-service notify-service gateway (replicas: gateway-2 ...),
with --observe also prometheus collector.
Everything lives in .dev/: env (addresses and secrets), pids/<name>, logs/<name>.log.
A service's settings can be given to `up` in the environment: ORDER_SERVICE__TELEMETRY__LOG=debug ./dev up
END
}
