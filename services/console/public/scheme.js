// Before anything is painted: light or dark, as chosen or as the system has it.
;(function () {
  var chosen = null
  try {
    chosen = localStorage.getItem('almanac-color-scheme')
  } catch {
    // storage is switched off
  }
  var dark = chosen === 'dark' || (chosen !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches)
  document.documentElement.setAttribute('data-mantine-color-scheme', dark ? 'dark' : 'light')
})()
