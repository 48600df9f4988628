-- Ends the wait of one worker. ARGV: worker.
even_when_full()
wake(ARGV[1])
return 1
