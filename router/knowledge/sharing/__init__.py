"""What several routers share of what they know, through Redis or in memory."""
