"""Run every benchmark, one after another: `make benchmark`."""

from tests.benchmarks import (
    bench_checkpoint,
    bench_commands,
    bench_decoding,
    bench_loop,
    bench_stage_cost,
    bench_start,
)

for benchmark in (
    bench_commands,
    bench_checkpoint,
    bench_loop,
    bench_decoding,
    bench_stage_cost,
    bench_start,
):
    print(f"\n{(benchmark.__doc__ or '').splitlines()[0]}", flush=True)
    benchmark.main()
