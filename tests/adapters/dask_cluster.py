"""A Dask cluster on this machine for as long as its standard input is open; it prints its address."""

import sys

from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(
        n_workers=int(sys.argv[1]),
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
        memory_limit=0,
    ) as made:
        print(made.scheduler_address, flush=True)
        sys.stdin.read()
