"""Tests of kvroute.router.control."""
