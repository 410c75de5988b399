// Shows the API's own description, and tries it out on the registry that serves this page.
const root = document.documentElement
const waiting = document.querySelector('.waiting')

// The viewer's dark colours go by a class of its own.
root.classList.toggle('dark-mode', root.getAttribute('data-mantine-color-scheme') === 'dark')

// What is within a button cannot be a button or a link as well: keyboards and screen
// readers would not find it.
const plain = ({ React }) => ({
  wrapComponents: {
    CopyToClipboardBtn: () => () => null,
    DeepLink: () => (props) => React.createElement('span', null, props.text),
  },
})

async function show() {
  const response = await fetch('/openapi.json', { credentials: 'same-origin' })
  if (!response.ok) throw new Error(`openapi.json answered with status ${response.status}`)
  const spec = await response.json()
  // It names every way that a registry may be reached; here it is this one.
  spec.host = location.host
  spec.schemes = [location.protocol.replace(':', '')]
  window.SwaggerUIBundle({
    spec,
    dom_id: '#viewer',
    deepLinking: true,
    docExpansion: 'list',
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    plugins: [plain],
  })
}

show().catch((cause) => {
  waiting.textContent = `The description of the API could not be loaded: ${cause.message}. Reload the page to try again.`
})
