"""An event's way from claim to settlement."""
