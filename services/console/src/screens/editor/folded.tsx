// What few people need to see: a line that says what is in it, opened by a click.
import { Box, Collapse, Group, Text, UnstyledButton } from '@mantine/core'
import { IconChevronDown, IconChevronRight } from '@tabler/icons-react'
import { type ReactNode, useId, useState } from 'react'

type Props = {
  title: string
  /** What is within, while it is closed. */
  summary?: ReactNode
  /** Something within needs attention: it is open whatever was chosen. */
  urgent?: boolean
  children: ReactNode
}

export function Folded({ title, summary, urgent = false, children }: Props) {
  const [chosen, setChosen] = useState(false)
  const id = useId()
  const open = chosen || urgent
  return (
    <Box>
      <UnstyledButton onClick={() => setChosen(!open)} aria-expanded={open} aria-controls={id} py={4} style={{ width: '100%' }}>
        <Group gap={6} wrap="nowrap" align="flex-start">
          {open ? <IconChevronDown size={18} aria-hidden style={{ flexShrink: 0, marginTop: 2 }} /> : <IconChevronRight size={18} aria-hidden style={{ flexShrink: 0, marginTop: 2 }} />}
          <Box>
            <Text size="sm" fw={600}>
              {title}
            </Text>
            {summary && (
              <Text size="sm" c="dimmed" component="div">
                {summary}
              </Text>
            )}
          </Box>
        </Group>
      </UnstyledButton>
      <Collapse expanded={open} id={id}>
        <Box pt="sm" pl={24}>
          {children}
        </Box>
      </Collapse>
    </Box>
  )
}
