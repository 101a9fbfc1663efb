"""From PTX text to micro-code: parser, decoder and its passes; `ops/` lowers what the engine executes."""
