"""Precision: number formats, quantised layers, training in 8 bits, and the search for a mix of formats."""
