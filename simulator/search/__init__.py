"""Many runs: comparing policies, planning capacity, tuning weights."""
