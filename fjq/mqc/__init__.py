"""mqc, the console command of the micro quant chat: it translates, launches, and puts the stages on one page."""
