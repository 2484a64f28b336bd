# For builds against ROS from PyPI (pass as -DCMAKE_PROJECT_INCLUDE=<this file>).
#
# The wheels' <package>__rosidl_generator_py targets export include directories of the machine
# that built the wheels, and CMake refuses to generate with "Imported target includes
# non-existent path". Nothing includes from there, so those that do not exist are dropped at
# the end of the project's configure step, when all targets have been imported.

function(drop_missing_include_directories)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  list(FILTER targets INCLUDE REGEX "__rosidl_generator_py$")
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(existing "")
    foreach(directory IN LISTS directories)
      if(directory MATCHES "\\$<" OR EXISTS "${directory}")
        list(APPEND existing "${directory}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()

if(CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  cmake_language(DEFER CALL drop_missing_include_directories)
endif()
