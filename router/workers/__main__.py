"""`python -m kvroute.router.workers FD`: one worker, started by its supervisor."""

from kvroute.router.workers.worker import main

main()
