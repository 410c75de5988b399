package sample

var (
	firstNames = []string{
		"Ada", "Bjarne", "Carla", "Dmitri", "Elif", "Farid", "Grace", "Hiro", "Ines", "Jonas", "Kemi", "Liam",
		"Mira", "Noor", "Oskar", "Priya", "Quentin", "Rosa", "Sven", "Tala", "Umar", "Vera", "Wanda", "Xiu",
		"Yusuf", "Zoe", "Anouk", "Bruno", "Chidi", "Daria",
	}
	lastNames = []string{
		"Almeida", "Bauer", "Castro", "Dahl", "Eriksen", "Fontaine", "Gupta", "Haddad", "Ito", "Jansen", "Kowalski",
		"Lindqvist", "Moreau", "Novak", "Okafor", "Petrov", "Quispe", "Rossi", "Schmidt", "Tanaka", "Umarov",
		"Vargas", "Weber", "Xu", "Yilmaz", "Zhang", "Brennan", "Costa", "Demir", "Fischer",
	}
	mailDomains = []string{"example.com", "example.net", "example.org", "mail.example.com"}
	roles       = []string{"member", "member", "member", "member", "member", "member", "member", "editor", "editor", "support", "admin"}
	userAgents  = []string{
		"Mozilla/5.0 (X11; Linux x86_64) Firefox/139.0",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/137.0.0.0 Safari/537.36",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 15_3) Safari/618.1",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) Mobile/15E148",
		"Mozilla/5.0 (Linux; Android 15; Pixel 9) Chrome/136.0.0.0 Mobile",
		"inventory-app/4.2 (tablet)",
		"api-client/1.9",
	}

	services = []string{"auth", "billing", "catalog", "mailer", "search", "tickets", "uploads", "web"}
	// logLines have a %d each.
	logLines = map[string][]string{
		"DEBUG": {"cache entry expired after %d s", "connection pool has %d idle connections", "parsed a request of %d bytes"},
		"INFO": {
			"request served in %d ms", "imported %d records", "started worker %d", "reloaded the configuration, %d keys changed",
			"sent digest to %d recipients", "index rebuilt, %d entries", "session renewed for user %d",
		},
		"WARNING": {"slow query took %d ms", "retry %d after a timeout", "disk is %d percent full", "rate limit reached by client %d"},
		"ERROR": {
			"payment provider answered %d", "could not write a file of %d bytes: disk quota exceeded",
			"message %d was refused by the mail server", "lost the connection to the search index for %d s",
		},
	}

	greetings = []string{"Hi", "Hello", "Good morning", "Quick question", "Thanks for your note", "One more thing", "About yesterday"}
	remarks   = []string{
		"the quarterly figures are in the shared folder", "could you look at the draft before Thursday",
		"the supplier moved our delivery to next week", "I added two rows to the stock list",
		"the meeting room on the third floor is free after lunch", "the printer on our floor is out of toner again",
		"please approve the travel request when you have a minute", "the customer in Lyon asked for a second offer",
		"the new price list is valid from the first of the month", "we still miss the signed contract",
	}
	closings = []string{"See you soon.", "Let me know.", "No hurry.", "Many thanks!", "Talk tomorrow.", "Best wishes."}

	troubles = []string{
		"Cannot sign in", "Export stops halfway", "Invoice shows the wrong address", "Search finds nothing",
		"Upload is refused", "Page stays blank", "Report has yesterday's figures", "Notification arrives twice",
		"Password reset mail is missing", "Total is off by a cent",
	}
	places = []string{
		"after the update", "on the phone", "for the Berlin office", "with large files", "since Monday",
		"when two tabs are open", "for new customers", "in the evening", "behind the company proxy", "with umlauts in the name",
	}
	priorities = []string{"low", "low", "normal", "normal", "normal", "normal", "high", "high", "urgent"}
)
