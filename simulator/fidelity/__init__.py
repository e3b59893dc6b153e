"""How true the simulator is: real runs reproduced step by step, fitted on one part and judged on another."""
