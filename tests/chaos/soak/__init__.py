"""Change the application's database at random, from a seed, beside its writers and two daemons, and judge the result.

The same changes and writes happen in a twin database without pgherald. It shows which errors the application has anyway.
"""
