"""Tests of kvroute.router.fleetwatch."""
