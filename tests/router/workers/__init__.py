"""Tests of kvroute.router.workers."""
