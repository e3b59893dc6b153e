"""The field's other routing policies, behind the same contract as ours."""
