# Reads the output of `cargo test`, prints it with the reasons of failures and the totals at its end, and writes JUnit's XML
# to the file `junit`.

function xml(text) {
  gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text); gsub(/"/, "\\&quot;", text)
  gsub(/[\001-\010\013-\037]/, "", text)
  return text
}

{ print; fflush() }

/^ +Running / { suite = $2 == "unittests" ? $3 : $2; path = $NF; gsub(/.*\/deps\/|-[0-9a-f]+\)$/, "", path); suite = path " " suite }
/^ +Doc-tests / { suite = $2 " doc-tests" }

/^test .* \.\.\. (ok|FAILED|ignored)/ {
  line = $0
  sub(/^test /, "", line)
  result = line; sub(/.* \.\.\. /, "", result); sub(/[ ,].*/, "", result)
  name = line; sub(/ \.\.\. [^.]*$/, "", name)
  tests++
  suites[tests] = suite; names[tests] = name; results[tests] = result
}

/^---- .* stdout ----$/ { failed_name = $0; sub(/^---- /, "", failed_name); sub(/ stdout ----$/, "", failed_name); left = 0; next }
/^failures:$|^test result:/ { failed_name = ""; left = 0 }
# A line a failed test, for a log that is cut keeps its end: where it failed and the beginning of what it said.
/^thread .* panicked at / && failed_name != "" && !(failed_name in why) {
  place = $0; sub(/.* panicked at /, "", place)
  why[failed_name] = place; failed_names[++failures] = failed_name; left = 12
  output[suite, failed_name] = output[suite, failed_name] $0 "\n"
  next
}
/^stack backtrace:/ { left = 0 }
left > 0 { why[failed_name] = why[failed_name] " " $0; left -= 1 }
failed_name != "" { output[suite, failed_name] = output[suite, failed_name] $0 "\n" }

/^test result:/ { passed += $4; failed += $6 }

END {
  if (junit != "") {
    print "<?xml version=\"1.0\" encoding=\"UTF-8\"?>" > junit
    printf "<testsuites tests=\"%d\" failures=\"%d\">\n", tests, failed > junit
    for (i = 1; i <= tests; i++) {
      if (suites[i] != suites[i - 1]) {
        if (i > 1) print "</testsuite>" > junit
        printf "<testsuite name=\"%s\">\n", xml(suites[i]) > junit
      }
      printf "<testcase classname=\"%s\" name=\"%s\">", xml(suites[i]), xml(names[i]) > junit
      if (results[i] == "FAILED") printf "<failure>%s</failure>", xml(output[suites[i], names[i]]) > junit
      if (results[i] == "ignored") printf "<skipped/>" > junit
      print "</testcase>" > junit
    }
    if (tests > 0) print "</testsuite>" > junit
    print "</testsuites>" > junit
  }
  if (failed > 0) print "\n== why tests failed"
  for (i = 1; i <= failures; i++) printf "%s: %s\n", failed_names[i], substr(why[failed_names[i]], 1, 240)
  printf "%d passed, %d failed\n", passed, failed
  exit failed > 0
}
