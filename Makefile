# A door for habit: the work is in scripts/. Arguments: make test ARGS='-k selector', make bench ARGS=--anew
.PHONY: demo test bench soak
demo test bench soak:
	@scripts/$@ $(ARGS)
