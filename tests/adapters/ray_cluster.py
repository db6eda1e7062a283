"""A Ray cluster on this machine for as long as its standard input is open; it prints its address.

Its keeper belongs to a driver that stays, so that Ray keeps worker processes for the next pool.
"""

import sys

import ray

from mcp_pools.engines.ray import keeper

if __name__ == "__main__":
    made = ray.init("local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False)
    kept = keeper()
    print(made.address_info["gcs_address"], flush=True)
    sys.stdin.read()
    ray.shutdown()
