"""A Ray cluster on this machine for as long as its standard input is open; it prints its address."""

import sys

import ray

if __name__ == "__main__":
    made = ray.init("local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False)
    print(made.address_info["gcs_address"], flush=True)
    sys.stdin.read()
    ray.shutdown()
