"""What a person types and sees: flags in, tables out. `console` and `formats` put it together."""
