# A door for habit: the work is in scripts/. Arguments: make test ARGS='-k selector'
.PHONY: demo test bench
demo test bench:
	@scripts/$@ $(ARGS)
