"""``make fuzz``: every property again and again, each time from another seed, for as long as was asked."""

import argparse
import secrets
import sys
import time

import pytest

PLACES = ["tests/fuzz", "tests/unit/mail/test_message.py", "tests/unit/smtp"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    until = time.monotonic() + parser.parse_args().seconds
    rounds = 0
    while not rounds or time.monotonic() < until:
        seed = secrets.randbelow(2**32)
        rounds += 1
        print(f"round {rounds}, --hypothesis-seed={seed}", flush=True)
        options = ["-q", "-x", "-m", "hypothesis", "-p", "no:cacheprovider", "--hypothesis-profile=fuzz", "--timeout=0"]
        if status := pytest.main([*options, f"--hypothesis-seed={seed}", *PLACES]):
            return int(status)
    print(f"{rounds} rounds, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
