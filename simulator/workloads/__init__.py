"""What is sent to the fleet, and when: traces and generators."""
